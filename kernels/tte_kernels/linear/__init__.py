"""linear: the matrix product of the prefill path, y = x @ weight.T (+ bias) (+ residual).

    y[t, o] = round(sum_i x[t, i] * weight[o, i] + bias[o] + residual[t, o])        (everything inside is
    fp32)

cuBLAS changes its order of summation with the number of rows, so that the same token gets other bits in
another chunk. Here an output element is always one fp32 sum over ascending i, whatever T is. This file is the
door; it does not know the kernel's tiles, nor what the rows mean.
"""

from __future__ import annotations

from typing import Any

import torch

from tte_kernels._check import FLOAT_DTYPES, check_tensor

__all__ = ["launch", "linear"]


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """Matrix product with torch's weight layout; bias and residual are added before the one rounding.

    Args:
        x: [T, I] float32, float16 or bfloat16; rows may be strided; T may be 0.
        weight: [O, I], dtype of x; rows may be strided.
        bias: [O], dtype of x, or None.
        residual: [T, O], dtype of x, or None; rows may be strided.

    Returns:
        [T, O], dtype of x, contiguous.

    Raises:
        KernelTypeError: a wrong dtype. KernelInputError: a wrong shape, stride or device.
        KernelBackendError: nothing can run it here.
    """
    check_tensor("linear", "x", x, ("T", "I"), FLOAT_DTYPES)
    num_tokens, in_features = x.shape
    check_tensor("linear", "weight", weight, ("O", in_features), (x.dtype,), x.device)
    if bias is not None:
        check_tensor("linear", "bias", bias, (weight.shape[0],), (x.dtype,), x.device)
    if residual is not None:
        check_tensor("linear", "residual", residual, (num_tokens, weight.shape[0]), (x.dtype,), x.device)
    return torch.ops.tte.linear(x, weight, bias, residual)


@torch.library.custom_op("tte::linear", mutates_args=())
def _linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None
) -> torch.Tensor:
    from tte_kernels.linear.kernel import launch

    return launch(x, weight, bias, residual)


@_linear.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None) -> torch.Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def __getattr__(name: str) -> Any:
    """`launch` is the kernel's launcher, without checks or dispatcher; fetched lazily, as it imports
    Triton."""
    if name == "launch":
        from tte_kernels.linear.kernel import launch

        return launch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
