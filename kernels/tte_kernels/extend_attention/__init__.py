"""extend_attention: causal attention of new tokens over a cached prefix and themselves, both in pages.

    out[t, h] = softmax(scale * q[t, h] . k[s, :p + 1, g]) @ v[s, :p + 1, g],   g = h * K // H
    t is the i-th of the n new tokens of sequence s, and stands at position p = kv_len - n + i

Prefill is the case of an empty prefix. Keys are taken in tiles of 64 by absolute position (online softmax as
in FlashAttention-2, Dao, arXiv:2307.08691), so a token gets the same bits however its prompt was cut into
chunks, and whatever came from the cache. This file is the door; it does not know tiles, and reads
lengths and pages only where they are on the CPU.
"""

from __future__ import annotations

from typing import Any

import torch

from tte_kernels._check import (
    FLOAT_DTYPES,
    check_int,
    check_page_table,
    check_pages,
    check_positive,
    check_tensor,
    check_values,
    on_host,
)
from tte_kernels._launch import launcher
from tte_kernels.decode_attention import check_groups, check_head_dim
from tte_kernels.errors import KernelInputError

__all__ = ["extend_attention", "launch"]


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
    """Attention of the new tokens of S sequences, whose own keys and values are already in the pages.

    Args:
        q: [T, H, D] float32, float16 or bfloat16, after RoPE; D is 32, 64 or 128; T may be 0.
        kv_pages: [2, N, K, 16, D], dtype of q: keys after RoPE, then values. N > 0; H is 1 to 16 times K.
        page_table: [S, P] int32; entry j of row s is the page of positions 16 j .. 16 j + 15. Entries past
            kv_len are not read.
        cu_seqlens: [S + 1] int32, ascending from 0 to T: where each sequence's new tokens begin. They may be
            none.
        kv_lens: [S] int32, tokens of each sequence, the new ones included; no fewer than these, at most 16 P.
        scale: softmax scale, usually D ** -0.5; > 0.
        max_query_len: at least the most new tokens of any sequence, or rows of the result stay unwritten; more
            changes no bits. It sizes the grid.

    Returns:
        [T, H, D], dtype of q, contiguous.

    Raises:
        KernelTypeError: a wrong dtype or type. KernelInputError: a wrong shape, stride, device, head dim, H / K,
            scale or max_query_len; bounds, lengths or pages outside their range where all tensors are on the CPU.
        KernelBackendError: nothing can run it here.
    """
    op = "extend_attention"
    check_tensor(op, "q", q, ("T", "H", "D"), FLOAT_DTYPES)
    num_kv_heads, head_dim = check_pages(op, kv_pages, q.dtype, q.device)
    check_head_dim(op, q, head_dim)
    check_tensor(op, "page_table", page_table, ("S", "P"), (torch.int32,), q.device)
    num_tokens, num_seqs = q.shape[0], page_table.shape[0]
    check_tensor(op, "cu_seqlens", cu_seqlens, (num_seqs + 1,), (torch.int32,), q.device)
    check_tensor(op, "kv_lens", kv_lens, (num_seqs,), (torch.int32,), q.device)
    check_groups(op, q.shape[1], num_kv_heads)
    scale = check_positive(op, "scale", scale)
    max_query_len = check_int(op, "max_query_len", max_query_len, 0)
    if max_query_len * num_seqs < num_tokens:
        raise KernelInputError(
            f"{op}: max_query_len must be at least the most new tokens of a sequence, got {max_query_len} for"
            f" {num_tokens} tokens of {num_seqs} sequences."
        )
    return torch.ops.tte.extend_attention(q, kv_pages, page_table, cu_seqlens, kv_lens, scale, max_query_len)


def _check_values(
    q: torch.Tensor,
    kv_pages: torch.Tensor,
    page_table: torch.Tensor,
    cu_seqlens: torch.Tensor,
    kv_lens: torch.Tensor,
    max_query_len: int,
) -> None:
    """Checks bounds, lengths and pages where they are on the host and reading them costs nothing."""
    op, num_tokens = "extend_attention", q.shape[0]
    first, last, new = int(cu_seqlens[0]), int(cu_seqlens[-1]), cu_seqlens.diff()
    if (first, last) != (0, num_tokens):
        raise KernelInputError(f"{op}: cu_seqlens must go from 0 to T = {num_tokens}, got {first} to {last}.")
    check_values(op, "cu_seqlens", cu_seqlens[1:], new >= 0, "ascending")
    check_values(op, "kv_lens", kv_lens, kv_lens >= new, "at least the sequence's new tokens")
    longest = int(new.max()) if new.numel() else 0
    check_int(op, f"max_query_len for sequences of up to {longest} new tokens", max_query_len, longest)
    check_page_table(op, kv_pages, page_table, kv_lens)


@torch.library.custom_op("tte::extend_attention", mutates_args=())
def _extend_attention(
    q: torch.Tensor,
    kv_pages: torch.Tensor,
    page_table: torch.Tensor,
    cu_seqlens: torch.Tensor,
    kv_lens: torch.Tensor,
    scale: float,
    max_query_len: int,
) -> torch.Tensor:
    if on_host(q, kv_pages, page_table, cu_seqlens, kv_lens):
        _check_values(q, kv_pages, page_table, cu_seqlens, kv_lens, max_query_len)
    return launcher("extend_attention")(
        q, kv_pages, page_table, cu_seqlens, kv_lens, scale=scale, max_query_len=max_query_len
    )


@_extend_attention.register_fake
def _(
    q: torch.Tensor,
    kv_pages: torch.Tensor,
    page_table: torch.Tensor,
    cu_seqlens: torch.Tensor,
    kv_lens: torch.Tensor,
    scale: float,
    max_query_len: int,
) -> torch.Tensor:
    return q.new_empty(q.shape)


def __getattr__(name: str) -> Any:
    """`launch` is the kernel's launcher: no checks, no dispatcher. Fetched lazily, as it imports Triton."""
    if name == "launch":
        return launcher("extend_attention")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
