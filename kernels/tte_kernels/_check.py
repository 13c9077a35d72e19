"""Checks of arguments, shared by the doors of all ops.

Each raises KernelInputError (KernelTypeError for dtypes and Python types) as `op: name must ..., got ...`.
Only shapes, strides, dtypes and devices are looked at, never values: reading a value would wait for the
device, and these checks also run on fake tensors. This file does not know any op, and imports no Triton.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tte_kernels.errors import KernelInputError, KernelTypeError

__all__ = [
    "FLOAT_DTYPES",
    "HEAD_DIMS",
    "MAX_GROUP",
    "check_choice",
    "check_dtype",
    "check_inner_contiguous",
    "check_packed",
    "check_pages",
    "check_positive",
    "check_shape",
    "check_tensor",
    "require",
]

FLOAT_DTYPES: tuple[torch.dtype, ...] = (torch.float32, torch.float16, torch.bfloat16)
"""Activation dtypes of every op."""

HEAD_DIMS: tuple[int, ...] = (32, 64, 128)
"""Head dims that the attention and rotary kernels are compiled and tested for."""

MAX_GROUP = 16
"""Query heads that may share a kv head: the rows of decode_attention's tile."""

PAGE_SIZE = 16
"""Tokens a page."""


def require(condition: bool, op: str, message: str) -> None:
    """Raises KernelInputError(`op: message`) unless `condition` holds."""
    if not condition:
        raise KernelInputError(f"{op}: {message}")


def check_dtype(op: str, name: str, tensor: torch.Tensor, allowed: Sequence[torch.dtype]) -> None:
    """Raises KernelTypeError unless the dtype is one of `allowed`."""
    if tensor.dtype not in allowed:
        listed = " or ".join(str(dtype) for dtype in allowed)
        raise KernelTypeError(f"{op}: {name} must have dtype {listed}, got {tensor.dtype}. Convert it with .to().")


def check_shape(op: str, name: str, tensor: torch.Tensor, shape: Sequence[int | str]) -> None:
    """Checks rank and sizes; a string in `shape` is a free dimension and only names it in the message."""
    wanted = "[" + ", ".join(str(size) for size in shape) + "]"
    fits = tensor.ndim == len(shape) and all(
        isinstance(want, str) or got == want for got, want in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
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
    """Checks pages of one layer, [2, N, K, 16, D]; returns (K, D)."""
    check_tensor(op, "kv_pages", kv_pages, (2, "N", "K", PAGE_SIZE, "D"), (dtype,), device)
    num_kv_heads, head_dim = kv_pages.shape[2], kv_pages.shape[4]
    check_choice(op, "head dim of kv_pages", head_dim, HEAD_DIMS)
    return num_kv_heads, head_dim


def check_choice(op: str, name: str, value: object, allowed: Sequence[object]) -> None:
    """Raises KernelInputError unless `value` is one of `allowed`, which the message lists."""
    if value not in allowed:
        raise KernelInputError(f"{op}: {name} must be one of {', '.join(map(repr, allowed))}, got {value!r}.")


def check_positive(op: str, name: str, value: float) -> None:
    """Raises KernelInputError unless value > 0."""
    if not value > 0:
        raise KernelInputError(f"{op}: {name} must be > 0, got {value!r}.")
