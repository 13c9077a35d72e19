"""Paged attention in plain torch: new keys and values to their slots, and queries over a sequence's pages.

One row on a CPU, which is what an interactive trace decodes, is written and read without index tensors and masks.
Knows pages; knows no weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tte_runtime.config import PAGE_SIZE
from tte_runtime.ops.layout import StepLayout


def write_pages(keys_values: torch.Tensor, pages: torch.Tensor, layout: StepLayout) -> None:
    """Keys and values of the new tokens, [T, 2K, D], to their slots of `pages`, [2, N, K, 16, D]."""
    num_kv_heads, head_dim = pages.shape[2], pages.shape[4]
    if layout.single is not None:
        page, offset, _ = layout.single
        pages[:, page, :, offset].copy_(keys_values.view(2, num_kv_heads, head_dim))
        return
    page_of, offset_of = layout.page_and_offset
    pages[:, page_of, :, offset_of] = keys_values.unflatten(1, (2, num_kv_heads))


def decode_rows(q: torch.Tensor, pages: torch.Tensor, layout: StepLayout, scale: float) -> torch.Tensor:
    """Attention of one token a row, [S, H, D], over its sequence's pages: [S, H, D]."""
    rows, num_heads, head_dim = q.shape
    _, num_pages, num_kv_heads, _, _ = pages.shape
    cells = pages.view(-1, head_dim).index_select(0, layout.cells(num_pages, num_kv_heads))
    k, v = cells.view(2, rows, num_kv_heads, -1, head_dim)  # [S, K, P * 16, D] each
    packed = q.view(rows, num_kv_heads, num_heads // num_kv_heads, head_dim)  # a kv head's queries together
    if layout.single is None:
        out = F.scaled_dot_product_attention(packed, k, v, attn_mask=layout.seen, scale=scale)
    else:
        _, _, length = layout.single
        out = F.scaled_dot_product_attention(packed, k[:, :, :length], v[:, :, :length], scale=scale)
    return out.reshape(rows, num_heads, head_dim)


def extend_sequences(q: torch.Tensor, pages: torch.Tensor, layout: StepLayout, scale: float) -> torch.Tensor:
    """Causal attention of several new tokens a sequence, [T, H, D], over its pages: [T, H, D]."""
    outputs, start = [], 0
    for index, (query_len, kv_len) in enumerate(zip(layout.query_lens_host, layout.kv_lens_host, strict=True)):
        k, v = _gather(pages, layout.page_table[index], kv_len)[:, None]
        new = q[start : start + query_len].transpose(0, 1)[None]
        # SDPA's own causal mask aligns top-left, ours bottom-right: they agree where nothing came before.
        fresh = query_len == kv_len
        mask = None if fresh else layout.masks[index]
        out = F.scaled_dot_product_attention(new, k, v, attn_mask=mask, is_causal=fresh, scale=scale, enable_gqa=True)
        outputs.append(out[0].transpose(0, 1))
        start += query_len
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _gather(pages: torch.Tensor, table: torch.Tensor, length: int) -> torch.Tensor:
    """Keys and values of one sequence as [2, K, length, D]."""
    own = pages.index_select(1, table[: -(-length // PAGE_SIZE)])  # [2, P, K, 16, D]
    return own.transpose(1, 2).flatten(2, 3)[:, :, :length]
