"""Specification of decode_attention in torch. Knows nothing of Triton, tiles, splits or devices."""

from __future__ import annotations

import torch

__all__ = ["decode_attention", "gather_kv"]


def gather_kv(kv_pages: torch.Tensor, table_row: torch.Tensor, kv_len: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [K, kv_len, D] in fp32 of one sequence: pages [2, N, K, 16, D], table_row [P] int32."""
    pages = kv_pages[:, table_row[: (kv_len + 15) // 16].long()].float()  # [2, pages, K, 16, D]
    keys, values = pages.transpose(1, 2).flatten(2, 3)[:, :, :kv_len]
    return keys, values


def decode_attention(
    q: torch.Tensor, kv_pages: torch.Tensor, page_table: torch.Tensor, kv_lens: torch.Tensor, *, scale: float
) -> torch.Tensor:
    """softmax(scale * q k^T) v in fp32, one query a sequence: q [S, H, D] -> [S, H, D]; zeros where kv_len is
    0."""
    out = torch.zeros_like(q, memory_format=torch.contiguous_format)
    for s, kv_len in enumerate(kv_lens.tolist()):
        if kv_len:
            keys, values = gather_kv(kv_pages, page_table[s], kv_len)
            grouped = q[s].float().unflatten(0, (keys.shape[0], -1))  # [K, H / K, D]
            weights = torch.softmax(grouped @ keys.mT * scale, dim=-1)
            out[s] = (weights @ values).flatten(0, 1).to(q.dtype)
    return out
