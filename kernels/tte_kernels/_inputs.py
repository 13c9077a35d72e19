"""Inputs of cases: seeded random tensors, and a walk over the tensors inside an op's arguments.

Values are the same for every dtype (drawn in fp32). On the device "meta" floats have no memory, while integers lie on
the CPU: costs of the largest shapes can then be counted from tensors without allocating them. Does not know any op.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

__all__ = ["as_slice", "cumulative", "index_device", "int_tensor", "map_tensors", "random_tensor", "strided_rows"]


def random_tensor(shape: Sequence[int], seed: int, device: str, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
    """Normal values times `scale`, contiguous. Large tensors on a GPU are drawn there, which is faster."""
    if device == "meta":
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    where = device if device.startswith("cuda") and torch.Size(shape).numel() > 1 << 22 else "cpu"
    generator = torch.Generator(device=where).manual_seed(seed)
    values = torch.randn(tuple(shape), generator=generator, device=where, dtype=torch.float32)
    return (values * scale).to(device=device, dtype=dtype)


def strided_rows(shape: Sequence[int], seed: int, device: str, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
    """As random_tensor, but a slice of something wider: only the last dimension is contiguous."""
    *outer, inner = shape
    return random_tensor((*outer, inner + 16), seed, device, dtype, scale)[..., 8 : 8 + inner]


def as_slice(tensor: torch.Tensor) -> torch.Tensor:
    """The same values as a slice of something wider, as strided_rows gives them."""
    return torch.nn.functional.pad(tensor, (8, 8))[..., 8 : 8 + tensor.shape[-1]]


def int_tensor(values: Sequence[int], device: str, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    """A tensor of integers."""
    return torch.tensor(list(values), dtype=dtype, device=index_device(device))


def cumulative(lengths: Sequence[int], device: str) -> torch.Tensor:
    """cu_seqlens [S+1] int32 of these lengths, beginning with 0."""
    return torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0).to(device=index_device(device), dtype=torch.int32)


def index_device(device: str) -> str:
    """Where integers of a case on `device` lie."""
    return "cpu" if device == "meta" else device


def map_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """`value` with every tensor in it changed; looks into dicts, tuples, lists and dataclasses."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: map_tensors(item, change) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [map_tensors(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [item.name for item in dataclasses.fields(value) if item.init]
        return dataclasses.replace(value, **{name: map_tensors(getattr(value, name), change) for name in names})
    return value
