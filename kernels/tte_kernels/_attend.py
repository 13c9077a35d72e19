"""The loop over key tiles that extend_attention and decode_attention share; Triton code, imported by kernels
only.

A tile is 64 keys, and begins at a multiple of 64 in the sequence's own positions. A tile of which a row sees
nothing leaves that row's accumulators bit for bit as they were (times 1, plus 0), so a row's result depends
on its position and on the keys up to it, never on the rows it shares a program with. Does not know queries,
splits or batches.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["BLOCK_N", "LOG2_E", "PAGE_SIZE", "attend_tiles"]

BLOCK_N = 64
PAGE_SIZE = 16
# exp(x) = 2^(x * LOG2_E): the hardware has exp2 only.
LOG2_E = 1.4426950408889634


@triton.jit
def attend_tiles(
    b_q,  # [M, D], dtype of the pages
    b_acc,  # [M, D] fp32, sum of p * v so far
    b_max,  # [M] fp32, running maximum of the scores
    b_sum,  # [M] fp32, running sum of p
    o_pos,  # [M] int32, absolute position of each row: it sees keys 0..o_pos
    lo,  # first key, a multiple of BLOCK_N
    hi,  # end of the keys, exclusive
    kv_len,
    p_table,  # this sequence's row of the page table
    p_keys,  # keys of this kv head on page 0
    p_values,
    stride_page,
    stride_token,
    scale_log2,  # softmax scale * log2(e)
    MASKED: tl.constexpr,  # False where every row sees every key of lo..hi
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,  # keys a tile
    PAGE: tl.constexpr,  # tokens a page
):
    """Online softmax (Milakov and Gimelshein, arXiv:1805.02867) over the keys lo..hi; returns the three
    sums."""
    o_d = tl.arange(0, HEAD_DIM)
    for start in range(lo, hi, BLOCK):
        o_n = start + tl.arange(0, BLOCK)
        if MASKED:
            m_n = o_n < kv_len
            b_page = tl.load(p_table + o_n // PAGE, mask=m_n, other=0).to(tl.int64)
            o_kv = (b_page * stride_page + (o_n % PAGE) * stride_token)[:, None] + o_d[None, :]
            # Masked values must be 0, not whatever lies there: 0 * NaN is NaN.
            b_k = tl.load(p_keys + o_kv, mask=m_n[:, None], other=0.0)
            b_v = tl.load(p_values + o_kv, mask=m_n[:, None], other=0.0)
        else:
            # All keys are within kv_len by the caller's word, so no load needs a mask.
            b_page = tl.load(p_table + o_n // PAGE).to(tl.int64)
            o_kv = (b_page * stride_page + (o_n % PAGE) * stride_token)[:, None] + o_d[None, :]
            b_k = tl.load(p_keys + o_kv)
            b_v = tl.load(p_values + o_kv)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * scale_log2
        if MASKED:
            b_s = tl.where(o_n[None, :] <= o_pos[:, None], b_s, float("-inf"))
        b_new = tl.maximum(b_max, tl.max(b_s, axis=1))
        b_scale = tl.exp2(b_max - b_new)
        b_p = tl.exp2(b_s - b_new[:, None])
        b_sum = b_sum * b_scale + tl.sum(b_p, axis=1)
        b_acc = tl.dot(b_p.to(b_v.dtype), b_v, b_acc * b_scale[:, None], input_precision="ieee")
        b_max = b_new
    return b_acc, b_max, b_sum
