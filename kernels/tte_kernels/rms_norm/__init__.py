"""rms_norm: residual add and RMSNorm in one launch.

    s = round(x + residual)                                  (s = x without a residual)
    y = round(round(s * rsqrt(mean(s^2) + eps)) * weight)    (everything inside a round() is fp32)

`round` is rounding to the dtype of x. This is the order of Llama and Qwen in transformers (Zhang and
Sennrich, arXiv:1910.07467, is the formula): the sum of squares is taken of the *rounded* s, which is also
what the next residual add reads. A row never depends on other rows. This file is the door; it does not know
the kernel's tiles.
"""

from __future__ import annotations

from typing import Any

import torch

from tte_kernels._check import FLOAT_DTYPES, check_int, check_positive, check_tensor
from tte_kernels._launch import launcher

__all__ = ["launch", "rms_norm"]

MAX_DIM = 16384


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """RMSNorm of x, or of x + residual.

    Args:
        x: [T, C] float32, float16 or bfloat16; rows may be strided. C <= 16384.
        weight: [C], dtype of x.
        eps: added to the mean square; > 0.
        residual: [T, C], dtype of x, or None.

    Returns:
        (y [T, C], residual_out [T, C]), both dtype of x, contiguous; residual_out is s, and x itself without
        residual.

    Raises:
        KernelTypeError: a wrong dtype or type. KernelInputError: a wrong shape, stride, device, C or eps.
        KernelBackendError: nothing can run it here.
    """
    check_tensor("rms_norm", "x", x, ("T", "C"), FLOAT_DTYPES)
    check_tensor("rms_norm", "weight", weight, (x.shape[1],), (x.dtype,), x.device)
    if residual is not None:
        check_tensor("rms_norm", "residual", residual, tuple(x.shape), (x.dtype,), x.device)
    check_int("rms_norm", "C of x", x.shape[1], 1, MAX_DIM)
    eps = check_positive("rms_norm", "eps", eps)
    if residual is None:
        return torch.ops.tte.rms_norm(x, weight, eps), x
    y, residual_out = torch.ops.tte.add_rms_norm(x, weight, eps, residual)
    return y, residual_out


@torch.library.custom_op("tte::rms_norm", mutates_args=())
def _rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return launcher("rms_norm")(x, weight, eps)[0]


@_rms_norm.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("tte::add_rms_norm", mutates_args=())
def _add_rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return launcher("rms_norm")(x, weight, eps, residual)


@_add_rms_norm.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


def __getattr__(name: str) -> Any:
    """`launch` is the kernel's launcher: no checks, no dispatcher. Fetched lazily, as it imports Triton."""
    if name == "launch":
        return launcher("rms_norm")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
