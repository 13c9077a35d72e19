"""Specification of extend_attention in torch. Knows nothing of Triton, tiles or devices."""

from __future__ import annotations

import torch

from tte_kernels.decode_attention.reference import gather_kv

__all__ = ["extend_attention"]


def extend_attention(
    q: torch.Tensor,
    kv_pages: torch.Tensor,
    page_table: torch.Tensor,
    cu_seqlens: torch.Tensor,
    kv_lens: torch.Tensor,
    *,
    scale: float,
    max_query_len: int,
) -> torch.Tensor:
    """Causal softmax(scale * q k^T) v in fp32 of each sequence's last tokens: q [T, H, D] -> [T, H, D]."""
    out = torch.zeros_like(q, memory_format=torch.contiguous_format)
    bounds = cu_seqlens.tolist()
    for s, kv_len in enumerate(kv_lens.tolist()):
        begin, end = bounds[s], bounds[s + 1]
        if begin < end:
            keys, values = gather_kv(kv_pages, page_table[s], kv_len)  # [K, kv_len, D]
            position = torch.arange(kv_len - (end - begin), kv_len, device=q.device)
            hidden = torch.arange(kv_len, device=q.device) > position[:, None]  # [queries, kv_len]
            grouped = (
                q[begin:end].float().unflatten(1, (keys.shape[0], -1)).permute(1, 2, 0, 3)
            )  # [K, H / K, queries, D]
            scores = (grouped @ keys[:, None].mT * scale).masked_fill(hidden, float("-inf"))
            out[begin:end] = (
                (torch.softmax(scores, dim=-1) @ values[:, None]).permute(2, 0, 1, 3).flatten(1, 2).to(q.dtype)
            )
    return out
