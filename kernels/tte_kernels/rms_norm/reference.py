"""Specification of rms_norm in torch. Knows nothing of Triton, tiles or devices."""

from __future__ import annotations

import torch

__all__ = ["rms_norm"]


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(y, s) of x [T, C]: fp32 inside, rounded to x.dtype after the add, the norm and the weight."""
    s = x if residual is None else (x.float() + residual.float()).to(x.dtype)
    mean_square = s.float().square().mean(-1, keepdim=True)
    normed = (s.float() * torch.rsqrt(mean_square + eps)).to(x.dtype)
    return (normed.float() * weight.float()).to(x.dtype), s
