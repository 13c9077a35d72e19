"""decode_attention: one query token a sequence over its paged keys and values (grouped-query attention).

    out[s, h] = softmax(scale * q[s, h] . k[s, :kv_len, h * K // H]) @ v[s, :kv_len, h * K // H]

The kernel reads every key and value once for all H / K heads that share them, in splits whose length follows
from the sequence's own kv_len, and merges the splits in ascending order: no row depends on the batch (split
KV as in Flash-Decoding, Dao et al. 2023). This file is the door; it does not know splits, and reads
lengths and pages only where they are on the CPU.
"""

from __future__ import annotations

from typing import Any

import torch

from tte_kernels._check import (
    FLOAT_DTYPES,
    MAX_GROUP,
    check_page_table,
    check_pages,
    check_positive,
    check_tensor,
    on_host,
)
from tte_kernels._launch import launcher
from tte_kernels.errors import KernelInputError

__all__ = ["decode_attention", "launch"]


def decode_attention(
    q: torch.Tensor, kv_pages: torch.Tensor, page_table: torch.Tensor, kv_lens: torch.Tensor, *, scale: float
) -> torch.Tensor:
    """Attention of one new token a sequence, whose own key and value are already in the pages.

    Args:
        q: [S, H, D] float32, float16 or bfloat16, after RoPE; D is 32, 64 or 128; S may be 0.
        kv_pages: [2, N, K, 16, D], dtype of q: keys after RoPE, then values. N > 0; H is 1 to 16 times K.
        page_table: [S, P] int32; entry j of row s is the page of positions 16 j .. 16 j + 15. Entries past
            kv_len are not read.
        kv_lens: [S] int32, at most 16 P, the new token included; rows of length 0 (padding) give zeros.
        scale: softmax scale, usually D ** -0.5; > 0.

    Returns:
        [S, H, D], dtype of q, contiguous.

    Raises:
        KernelTypeError: a wrong dtype or type. KernelInputError: a wrong shape, stride, device, head dim, H / K or
            scale; lengths or pages outside their range where all tensors are on the CPU.
        KernelBackendError: nothing can run it here.
    """
    op = "decode_attention"
    check_tensor(op, "q", q, ("S", "H", "D"), FLOAT_DTYPES)
    num_kv_heads, head_dim = check_pages(op, kv_pages, q.dtype, q.device)
    num_seqs, num_heads, _ = q.shape
    check_head_dim(op, q, head_dim)
    check_tensor(op, "page_table", page_table, (num_seqs, "P"), (torch.int32,), q.device)
    check_tensor(op, "kv_lens", kv_lens, (num_seqs,), (torch.int32,), q.device)
    check_groups(op, num_heads, num_kv_heads)
    scale = check_positive(op, "scale", scale)
    return torch.ops.tte.decode_attention(q, kv_pages, page_table, kv_lens, scale)


def check_head_dim(op: str, q: torch.Tensor, head_dim: int) -> None:
    """D of q must be that of the pages."""
    if q.shape[2] != head_dim:
        raise KernelInputError(f"{op}: head dim of q must be that of kv_pages, {head_dim}, got {q.shape[2]}.")


def check_groups(op: str, num_heads: int, num_kv_heads: int) -> None:
    """H must be 1 to 16 times K."""
    fits = num_kv_heads > 0 and num_heads % num_kv_heads == 0 and 1 <= num_heads // num_kv_heads <= MAX_GROUP
    if not fits:
        raise KernelInputError(
            f"{op}: H of q must be 1 to {MAX_GROUP} times K of kv_pages ({num_kv_heads}), got H = {num_heads}."
        )


@torch.library.custom_op("tte::decode_attention", mutates_args=())
def _decode_attention(
    q: torch.Tensor, kv_pages: torch.Tensor, page_table: torch.Tensor, kv_lens: torch.Tensor, scale: float
) -> torch.Tensor:
    if on_host(kv_pages, page_table, kv_lens):
        check_page_table("decode_attention", kv_pages, page_table, kv_lens)
    return launcher("decode_attention")(q, kv_pages, page_table, kv_lens, scale=scale)


@_decode_attention.register_fake
def _(
    q: torch.Tensor, kv_pages: torch.Tensor, page_table: torch.Tensor, kv_lens: torch.Tensor, scale: float
) -> torch.Tensor:
    return q.new_empty(q.shape)


def __getattr__(name: str) -> Any:
    """`launch` is the kernel's launcher: no checks, no dispatcher. Fetched lazily, as it imports Triton."""
    if name == "launch":
        return launcher("decode_attention")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
