"""decode_linear: the matrix product of the decode path, for 1 to 64 rows, with what stands around it in a
layer.

    n = x * norm_weight,  r = rsqrt(mean(x^2) + eps)       RMSNorm; n is rounded to x's dtype, r stays in fp32
    y = r * (n @ weight.T) + bias
    y = silu(y[:, :O/2]) * y[:, O/2:]                      swiglu; rows of the weight are gate, then up
    y = round(y + residual)

Everything but n is fp32 and rounded once. Applying r after the product saves a pass over x; in fp16 it asks
that |x * norm_weight| stays below 65504. The weight comes from `pack`, in 16, 8 or 4 bits. A row's bits do
not depend on
S: the order of its sums is fixed by I alone. This file is the door; it does not know the kernel's tiles.
"""

from __future__ import annotations

from typing import Any, cast

import torch

from tte_kernels._check import (
    FLOAT_DTYPES,
    check_bool,
    check_choice,
    check_packed,
    check_positive,
    check_tensor,
    describe,
)
from tte_kernels._launch import launcher
from tte_kernels.decode_linear.pack import FORMATS, GROUP, PackedWeight, pack, unpack
from tte_kernels.errors import KernelInputError, KernelTypeError

__all__ = ["FORMATS", "MAX_ROWS", "PackedWeight", "decode_linear", "launch", "pack", "unpack"]

MAX_ROWS = 64


def decode_linear(
    x: torch.Tensor,
    packed: PackedWeight,
    *,
    norm_weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    swiglu: bool = False,
) -> torch.Tensor:
    """One projection of a decode step.

    Args:
        x: [S, I] float32, float16 or bfloat16; rows may be strided; S is 0 to 64.
        packed: weight [O, I] as packed by `pack`; for w16 in the dtype of x.
        norm_weight: [I], dtype of x: RMSNorm of x first; or None.
        eps: of that norm; > 0.
        bias: [O], dtype of x, or None.
        residual: [S, O] ([S, O/2] with swiglu), dtype of x, or None; rows may be strided.
        swiglu: the weight is gate over up, and the result silu(gate) * up; O must be even.

    Returns:
        [S, O] ([S, O/2] with swiglu), dtype of x, contiguous.

    Raises:
        KernelTypeError: a wrong dtype or type; `packed` is not a PackedWeight.
        KernelInputError: a wrong shape, stride, device, S, O, eps or format.
        KernelBackendError: nothing can run it here.
    """
    eps = _check(x, packed, norm_weight, eps, bias, residual, swiglu)
    parts = (packed.format, packed.data, packed.scale, packed.zero)
    return torch.ops.tte.decode_linear(x, *parts, norm_weight, eps, bias, residual, swiglu)


def _check(
    x: torch.Tensor,
    packed: PackedWeight,
    norm_weight: torch.Tensor | None,
    eps: float,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    swiglu: bool,
) -> float:
    """All checks of the door; returns eps."""
    op = "decode_linear"
    check_tensor(op, "x", x, ("S", "I"), FLOAT_DTYPES)
    rows, in_features = x.shape
    if rows > MAX_ROWS:
        raise KernelInputError(f"{op}: S of x must be at most {MAX_ROWS}, got {rows}. Use linear for more rows.")
    if not isinstance(packed, PackedWeight):
        raise KernelTypeError(f"{op}: packed must be a PackedWeight, got {describe(packed)}. Call pack() first.")
    check_choice(op, "packed.format", packed.format, FORMATS)
    if packed.in_features != in_features:
        raise KernelInputError(
            f"{op}: I of x must be that of the packed weight, {packed.in_features}, got {in_features}."
        )
    _check_parts(x, packed)
    if norm_weight is not None:
        check_tensor(op, "norm_weight", norm_weight, (in_features,), (x.dtype,), x.device)
    eps = check_positive(op, "eps", eps)
    check_bool(op, "swiglu", swiglu)
    out_features = packed.out_features
    if bias is not None:
        check_tensor(op, "bias", bias, (out_features,), (x.dtype,), x.device)
    if swiglu and out_features % 2:
        raise KernelInputError(f"{op}: O of packed must be even with swiglu, got {out_features}.")
    if residual is not None:
        columns = out_features // 2 if swiglu else out_features
        check_tensor(op, "residual", residual, (rows, columns), (x.dtype,), x.device)
    return eps


def _check_parts(x: torch.Tensor, packed: PackedWeight) -> None:
    """A PackedWeight made by `pack` is right by construction; this catches another device, dtype or a
    hand-made one."""
    op, blocks = "decode_linear", -(-packed.in_features // (2 * GROUP))
    stored = x.dtype if packed.format == "w16" else torch.int8
    width = blocks * GROUP if packed.format == "w4a16" else packed.in_features
    check_tensor(op, "packed.data", packed.data, ("O", width), (stored,), x.device)
    # check_tensor refuses a missing one by its type.
    scale, zero = cast(torch.Tensor, packed.scale), cast(torch.Tensor, packed.zero)
    if packed.format == "w8a16":
        check_tensor(op, "packed.scale", scale, (packed.out_features,), (torch.float32,), x.device)
    elif packed.format == "w4a16":
        groups = (2 * blocks, packed.out_features)
        for name, part, dtype in (("packed.scale", scale, torch.float16), ("packed.zero", zero, torch.int8)):
            check_tensor(op, name, part, groups, (dtype,), x.device)
            check_packed(op, name, part)  # the kernel counts on rows of O


@torch.library.custom_op("tte::decode_linear", mutates_args=())
def _decode_linear(
    x: torch.Tensor,
    format: str,
    data: torch.Tensor,
    scale: torch.Tensor | None,
    zero: torch.Tensor | None,
    norm_weight: torch.Tensor | None,
    eps: float,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    swiglu: bool,
) -> torch.Tensor:
    packed = PackedWeight(format, x.shape[1], data, scale, zero)
    return launcher("decode_linear")(
        x, packed, norm_weight=norm_weight, eps=eps, bias=bias, residual=residual, swiglu=swiglu
    )


@_decode_linear.register_fake
def _(
    x: torch.Tensor,
    format: str,
    data: torch.Tensor,
    scale: torch.Tensor | None,
    zero: torch.Tensor | None,
    norm_weight: torch.Tensor | None,
    eps: float,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    swiglu: bool,
) -> torch.Tensor:
    return x.new_empty(x.shape[0], data.shape[0] // 2 if swiglu else data.shape[0])


def __getattr__(name: str) -> Any:
    """`launch` is the kernel's launcher: no checks, no dispatcher. Fetched lazily, as it imports Triton."""
    if name == "launch":
        return launcher("decode_linear")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
