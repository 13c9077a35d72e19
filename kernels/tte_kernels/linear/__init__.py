"""linear: the matrix product of the prefill path, with what follows it in a layer.

    p[t, o] = sum_i x[t, i] * weight[o, i]                       everything is fp32 up to round()
    y[t, o] = round(p[t, o] + bias[o] + residual[t, o])
    y[t, o] = round(silu(p[t, o]) * p[t, O/2 + o])               swiglu; rows of the weight are gate, then up

cuBLAS changes its order of summation with the number of rows, so that the same token gets other bits in
another chunk. Here an output element is always one fp32 sum over ascending i, whatever T is. This file is the
door; it does not know the kernel's tiles, nor what the rows mean.
"""

from __future__ import annotations

from typing import Any

import torch

from tte_kernels._check import FLOAT_DTYPES, check_bool, check_tensor, describe
from tte_kernels._launch import launcher
from tte_kernels.errors import KernelInputError

__all__ = ["launch", "linear"]


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    *,
    swiglu: bool = False,
) -> torch.Tensor:
    """Matrix product with torch's weight layout; bias and residual are added before the one rounding.

    Args:
        x: [T, I] float32, float16 or bfloat16; rows may be strided; T may be 0.
        weight: [O, I], dtype of x; rows may be strided.
        bias: [O], dtype of x, or None.
        residual: [T, O], dtype of x, or None; rows may be strided.
        swiglu: the weight is gate over up, and the result silu(gate) * up; O must be even, and neither bias nor
            residual may be given.

    Returns:
        [T, O] ([T, O/2] with swiglu), dtype of x, contiguous.

    Raises:
        KernelTypeError: a wrong dtype or type. KernelInputError: a wrong shape, stride or device; swiglu with an
            odd O, a bias or a residual.
        KernelBackendError: nothing can run it here.
    """
    check_tensor("linear", "x", x, ("T", "I"), FLOAT_DTYPES)
    num_tokens, in_features = x.shape
    check_tensor("linear", "weight", weight, ("O", in_features), (x.dtype,), x.device)
    if bias is not None:
        check_tensor("linear", "bias", bias, (weight.shape[0],), (x.dtype,), x.device)
    if residual is not None:
        check_tensor("linear", "residual", residual, (num_tokens, weight.shape[0]), (x.dtype,), x.device)
    check_bool("linear", "swiglu", swiglu)
    if swiglu:
        if weight.shape[0] % 2:
            raise KernelInputError(f"linear: O of weight must be even with swiglu, got {weight.shape[0]}.")
        for name, added in (("bias", bias), ("residual", residual)):
            if added is not None:
                raise KernelInputError(
                    f"linear: {name} must be None with swiglu, got {describe(added)}."
                    " Use decode_linear, or add it to the result."
                )
    return torch.ops.tte.linear(x, weight, bias, residual, swiglu)


@torch.library.custom_op("tte::linear", mutates_args=())
def _linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None, swiglu: bool
) -> torch.Tensor:
    return launcher("linear")(x, weight, bias, residual, swiglu=swiglu)


@_linear.register_fake
def _(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None, swiglu: bool
) -> torch.Tensor:
    return x.new_empty(x.shape[0], weight.shape[0] // 2 if swiglu else weight.shape[0])


def __getattr__(name: str) -> Any:
    """`launch` is the kernel's launcher: no checks, no dispatcher. Fetched lazily, as it imports Triton."""
    if name == "launch":
        return launcher("linear")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
