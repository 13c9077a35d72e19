"""Checks of arguments, shared by the doors of all ops.

Each raises KernelInputError (KernelTypeError for dtypes and Python types) as `op: name must ..., got ...`.
Doors look at shapes, strides, dtypes and devices only: reading a value would wait for the device, and doors also
run on fake tensors. Values are checked inside the operators, where `on_host` says that reading waits for nothing.

A message is formatted only where it is raised: under torch.compile sizes may be symbols, which have no text.
This file does not know any op, and imports no Triton.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch

from tte_kernels.errors import KernelInputError, KernelTypeError

__all__ = [
    "FLOAT_DTYPES",
    "HEAD_DIMS",
    "MAX_GROUP",
    "check_bool",
    "check_choice",
    "check_dtype",
    "check_inner_contiguous",
    "check_int",
    "check_packed",
    "check_page_table",
    "check_pages",
    "check_positive",
    "check_shape",
    "check_tensor",
    "check_values",
    "describe",
    "on_host",
]

FLOAT_DTYPES: tuple[torch.dtype, ...] = (torch.float32, torch.float16, torch.bfloat16)
"""Activation dtypes of every op."""

HEAD_DIMS: tuple[int, ...] = (32, 64, 128)
"""Head dims that the attention and rotary kernels are compiled and tested for."""

MAX_GROUP = 16
"""Query heads that may share a kv head: the rows of decode_attention's tile."""

PAGE_SIZE = 16
"""Tokens a page."""

_INTEGERS: Any = (Integral, torch.SymInt)  # numpy's among them
_NUMBERS: Any = (Real, torch.SymInt, torch.SymFloat)
_SYMBOLS: Any = (torch.SymInt, torch.SymFloat)


def check_dtype(op: str, name: str, tensor: torch.Tensor, allowed: Sequence[torch.dtype]) -> None:
    """Raises KernelTypeError unless the dtype is one of `allowed`."""
    if tensor.dtype not in allowed:
        listed = " or ".join(str(dtype) for dtype in allowed)
        raise KernelTypeError(f"{op}: {name} must have dtype {listed}, got {tensor.dtype}. Convert it with .to().")


def check_shape(op: str, name: str, tensor: torch.Tensor, shape: Sequence[int | str]) -> None:
    """Checks rank and sizes; a string in `shape` is a free dimension and only names it in the message."""
    fits = tensor.ndim == len(shape) and all(
        isinstance(want, str) or got == want for got, want in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        wanted = "[" + ", ".join(str(size) for size in shape) + "]"
        raise KernelInputError(f"{op}: {name} must have shape {wanted}, got {list(tensor.shape)}.")


def check_inner_contiguous(op: str, name: str, tensor: torch.Tensor) -> None:
    """Rows may be strided, but the last dimension must be contiguous: loads along it are vectors."""
    if tensor.ndim and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise KernelInputError(
            f"{op}: {name} must be contiguous in its last dimension, got strides {tuple(tensor.stride())}."
            " Call .contiguous() on it."
        )


def check_packed(op: str, name: str, tensor: torch.Tensor) -> None:
    """The tensor must be contiguous in all dimensions."""
    if not tensor.is_contiguous():
        raise KernelInputError(
            f"{op}: {name} must be contiguous, got strides {tuple(tensor.stride())} for shape"
            f" {list(tensor.shape)}. Call .contiguous() on it."
        )


def check_tensor(
    op: str,
    name: str,
    tensor: torch.Tensor,
    shape: Sequence[int | str],
    dtypes: Sequence[torch.dtype],
    device: torch.device | None = None,
) -> None:
    """Python type, dtype, shape, inner contiguity and device of one argument, in that order.

    Args:
        shape: sizes; strings are free dimensions ("T").
        dtypes: allowed dtypes; usually `FLOAT_DTYPES` for the first argument and `(x.dtype,)` for the rest.
        device: device of the first argument; None for the first argument itself.
    """
    if not isinstance(tensor, torch.Tensor):
        raise KernelTypeError(f"{op}: {name} must be a torch.Tensor, got {type(tensor).__name__}.")
    check_dtype(op, name, tensor, dtypes)
    check_shape(op, name, tensor, shape)
    check_inner_contiguous(op, name, tensor)
    if device is not None and tensor.device != device:
        raise KernelInputError(f"{op}: {name} must be on {device} like the first argument, got {tensor.device}.")


def check_pages(op: str, kv_pages: torch.Tensor, dtype: torch.dtype, device: torch.device) -> tuple[int, int]:
    """Checks pages of one layer, [2, N, K, 16, D] with at least one page; returns (K, D)."""
    check_tensor(op, "kv_pages", kv_pages, (2, "N", "K", PAGE_SIZE, "D"), (dtype,), device)
    check_int(op, "N of kv_pages", kv_pages.shape[1], 1)
    num_kv_heads, head_dim = kv_pages.shape[2], kv_pages.shape[4]
    check_choice(op, "head dim of kv_pages", head_dim, HEAD_DIMS)
    return num_kv_heads, head_dim


def check_choice(op: str, name: str, value: object, allowed: Sequence[object]) -> None:
    """Raises KernelInputError unless `value` is one of `allowed`, which the message lists."""
    if value not in allowed:
        raise KernelInputError(f"{op}: {name} must be one of {', '.join(map(repr, allowed))}, got {value!r}.")


def check_int(op: str, name: str, value: Any, low: int, high: int | None = None) -> int:
    """`value` as an integer in low..high (from low on where high is None); a symbolic one stays symbolic.

    Raises:
        KernelTypeError: no integer; bools and tensors are none. KernelInputError: outside the range.
    """
    if isinstance(value, bool) or not isinstance(value, _INTEGERS):
        raise KernelTypeError(f"{op}: {name} must be an int, got {describe(value)}.")
    if value < low or (high is not None and value > high):
        rule = f">= {low}" if high is None else f"in {low}..{high}"
        raise KernelInputError(f"{op}: {name} must be {rule}, got {value}.")
    return value if isinstance(value, _SYMBOLS) else int(value)


def check_positive(op: str, name: str, value: Any) -> float:
    """`value` as a number > 0 and finite; a symbolic one stays symbolic.

    Raises:
        KernelTypeError: no number; bools and tensors are none. KernelInputError: not > 0, infinite or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, _NUMBERS):
        raise KernelTypeError(f"{op}: {name} must be a float, got {describe(value)}.")
    if not 0 < value < math.inf:
        raise KernelInputError(f"{op}: {name} must be > 0 and finite, got {value!r}.")
    return value if isinstance(value, _SYMBOLS) else float(value)


def check_bool(op: str, name: str, value: object) -> None:
    """Raises KernelTypeError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise KernelTypeError(f"{op}: {name} must be True or False, got {describe(value)}.")


def describe(value: object) -> str:
    """A value in an error: a tensor by its shape, anything else as Python writes it."""
    return f"a tensor of shape {list(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)


def on_host(*tensors: torch.Tensor) -> bool:
    """True where the values of all these may be read without waiting: they are on the CPU, and nothing is traced."""
    return not torch.compiler.is_compiling() and all(tensor.device.type == "cpu" for tensor in tensors)


def check_values(op: str, name: str, values: torch.Tensor, valid: torch.Tensor, rule: str) -> None:
    """Raises KernelInputError, with the first of `values` that is not `valid`, unless all are."""
    if not valid.all():
        raise KernelInputError(f"{op}: {name} must be {rule}, got {values[~valid][0].item()!r}.")


def check_page_table(op: str, kv_pages: torch.Tensor, page_table: torch.Tensor, kv_lens: torch.Tensor) -> None:
    """Checks the values of kv_lens, and of the entries of page_table that they make readable; all on the CPU."""
    num_pages, width = kv_pages.shape[1], page_table.shape[1]
    fits = (kv_lens >= 0) & (kv_lens <= PAGE_SIZE * width)
    check_values(op, "kv_lens", kv_lens, fits, f"in 0..16 P = {PAGE_SIZE * width}")
    unread = torch.arange(width) * PAGE_SIZE >= kv_lens[:, None]
    exists = (page_table >= 0) & (page_table < num_pages)
    check_values(op, "page_table", page_table, exists | unread, f"in 0..{num_pages - 1}, pages that exist")
