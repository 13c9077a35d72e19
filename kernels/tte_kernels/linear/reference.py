"""Specification of linear in torch. Knows nothing of Triton, tiles or devices."""

from __future__ import annotations

import torch

__all__ = ["linear"]


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """x [T, I] @ weight [O, I].T + bias [O] + residual [T, O] in fp32, rounded once to x.dtype."""
    y = x.float() @ weight.float().T
    if bias is not None:
        y = y + bias.float()
    if residual is not None:
        y = y + residual.float()
    return y.to(x.dtype)
