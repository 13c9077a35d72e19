"""Specification of linear in torch. Knows nothing of Triton, tiles or devices."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["linear"]


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    *,
    swiglu: bool = False,
) -> torch.Tensor:
    """x [T, I] @ weight [O, I].T, then bias [O] and residual [T, O], or SwiGLU; in fp32, rounded once to x.dtype."""
    y = x.float() @ weight.float().T
    if swiglu:
        gate, up = y.chunk(2, dim=-1)
        y = F.silu(gate) * up
    if bias is not None:
        y = y + bias.float()
    if residual is not None:
        y = y + residual.float()
    return y.to(x.dtype)
