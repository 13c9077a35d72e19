"""Specification of decode_linear in torch. Knows nothing of Triton, tiles or devices."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tte_kernels.decode_linear.pack import PackedWeight, unpack

__all__ = ["decode_linear"]


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
    """x [S, I] -> [S, O] (O / 2 with swiglu): optional RMSNorm, product, bias, SwiGLU, residual; fp32, one
    rounding."""
    wide = x.float()
    if norm_weight is not None:
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * norm_weight.float()
    y = wide @ unpack(packed).T
    if bias is not None:
        y = y + bias.float()
    if swiglu:
        gate, up = y.chunk(2, dim=-1)
        y = F.silu(gate) * up
    if residual is not None:
        y = y + residual.float()
    return y.to(x.dtype)
