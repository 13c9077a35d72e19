"""Specification of rope_write_kv in torch. Knows nothing of Triton, tiles or devices."""

from __future__ import annotations

import torch

__all__ = ["rope_write_kv"]


def rope_write_kv(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    kv_pages: torch.Tensor,
    slots: torch.Tensor,
    *,
    num_heads: int,
    q_norm: torch.Tensor | None = None,
    k_norm: torch.Tensor | None = None,
    eps: float = 1e-6,
) -> torch.Tensor:
    """q [T, H, D] of qkv [T, (H+2K)*D]; writes k, v to kv_pages [2, N, K, 16, D] at slots. One rounding."""
    num_kv_heads, head_dim = kv_pages.shape[2], kv_pages.shape[4]
    heads = qkv.float().unflatten(1, (-1, head_dim))
    q, k, v = heads.split((num_heads, num_kv_heads, num_kv_heads), dim=1)

    def norm(x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        return x if weight is None else x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.float()

    def rotate(x: torch.Tensor) -> torch.Tensor:
        low, high = x.chunk(2, dim=-1)
        c, s = cos[:, None], sin[:, None]
        return torch.cat((low * c - high * s, high * c + low * s), dim=-1).to(qkv.dtype)

    kv_pages[0, slots // 16, :, slots % 16] = rotate(norm(k, k_norm))
    kv_pages[1, slots // 16, :, slots % 16] = v.to(qkv.dtype)
    return rotate(norm(q, q_norm))
