"""Seeded random tensors for cases: the same on every device and for every dtype (drawn in fp32 on the CPU).

Does not know any op.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["cumulative", "int_tensor", "random_tensor", "strided_rows"]


def random_tensor(
    shape: Sequence[int], seed: int, device: str, dtype: torch.dtype, scale: float = 1.0
) -> torch.Tensor:
    """Normal values times `scale`, contiguous. Large tensors on a GPU are drawn there, which is faster."""
    where = device if device.startswith("cuda") and torch.Size(shape).numel() > 1 << 22 else "cpu"
    generator = torch.Generator(device=where).manual_seed(seed)
    values = torch.randn(tuple(shape), generator=generator, device=where, dtype=torch.float32)
    return (values * scale).to(device=device, dtype=dtype)


def strided_rows(
    shape: Sequence[int], seed: int, device: str, dtype: torch.dtype, scale: float = 1.0
) -> torch.Tensor:
    """As random_tensor, but a slice of something wider: only the last dimension is contiguous."""
    *outer, inner = shape
    return random_tensor((*outer, inner + 16), seed, device, dtype, scale)[..., 8 : 8 + inner]


def int_tensor(values: Sequence[int], device: str, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    """A tensor of integers."""
    return torch.tensor(list(values), dtype=dtype, device=device)


def cumulative(lengths: Sequence[int], device: str) -> torch.Tensor:
    """cu_seqlens [S+1] int32 of these lengths, beginning with 0."""
    return torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0).to(device=device, dtype=torch.int32)
