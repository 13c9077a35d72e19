"""Triton code of decode_attention: a kernel that takes one split of the keys, and one that merges the splits.

A program takes splits of one kv head of one sequence, with all query heads of that kv head as the rows of its
tile (padded to 16, the least a tensor core takes), so that keys and values are read once. The merge adds splits
in ascending order, always 16 at a time. Does not know how long splits are made, or why.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tte_kernels._attend import attend_tiles

__all__ = ["decode_attention_kernel", "merge_splits_kernel"]


@triton.jit
def split_len_of(
    kv_len,
    SHORT: tl.constexpr,
    MIDDLE: tl.constexpr,
    SHORT_SPLIT: tl.constexpr,
    MIDDLE_SPLIT: tl.constexpr,
    LONG_SPLIT: tl.constexpr,
):
    """Keys a split, of the sequence's own length alone."""
    return tl.where(kv_len <= SHORT, SHORT_SPLIT, tl.where(kv_len <= MIDDLE, MIDDLE_SPLIT, LONG_SPLIT))


# Not specialised on what changes with the width of the page table: 1 and multiples of 16 would each be
# compiled anew, within somebody's request.
@triton.jit(do_not_specialize=["num_splits", "stride_table"])
def decode_attention_kernel(
    q_ptr,  # [S, H, D]
    kv_ptr,  # [2, N, K, 16, D]
    table_ptr,  # [S, P] int32
    kv_lens_ptr,  # [S] int32
    acc_ptr,  # [S, H, splits, D] fp32
    max_ptr,  # [S, H, splits] fp32
    sum_ptr,  # [S, H, splits] fp32
    scale_log2,
    num_splits,
    stride_qs,
    stride_qh,
    stride_half,
    stride_page,
    stride_head,
    stride_token,
    stride_table,
    GROUP: tl.constexpr,  # query heads a kv head
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    PAGE: tl.constexpr,
    SHORT: tl.constexpr,
    MIDDLE: tl.constexpr,
    SHORT_SPLIT: tl.constexpr,
    MIDDLE_SPLIT: tl.constexpr,
    LONG_SPLIT: tl.constexpr,
    PDL: tl.constexpr,
):
    i_s = tl.program_id(0).to(tl.int64)
    i_k = tl.program_id(1).to(tl.int64)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    kv_len = tl.load(kv_lens_ptr + i_s)
    split_len = split_len_of(kv_len, SHORT, MIDDLE, SHORT_SPLIT, MIDDLE_SPLIT, LONG_SPLIT)
    used = tl.cdiv(kv_len, split_len)

    o_g = tl.arange(0, ROWS)
    o_d = tl.arange(0, HEAD_DIM)
    m_g = o_g < GROUP
    i_h = i_k * GROUP + o_g
    p_q = q_ptr + i_s * stride_qs + i_h[:, None] * stride_qh + o_d[None, :]
    b_q = tl.load(p_q, mask=m_g[:, None], other=0.0)
    p_keys = kv_ptr + i_k * stride_head
    num_heads = tl.num_programs(1) * GROUP
    # Who computes a split changes no bits: each has a place of its own, and the merge knows only places.
    for i_split in range(tl.program_id(2), used, tl.num_programs(2)):
        lo = i_split * split_len
        b_acc, b_max, b_sum = attend_tiles(
            b_q,
            tl.zeros([ROWS, HEAD_DIM], dtype=tl.float32),
            tl.full([ROWS], float("-inf"), dtype=tl.float32),
            tl.zeros([ROWS], dtype=tl.float32),
            tl.zeros([ROWS], dtype=tl.int32) + (kv_len - 1),
            lo,
            tl.minimum(lo + split_len, kv_len),
            kv_len,
            table_ptr + i_s * stride_table,
            p_keys,
            p_keys + stride_half,
            stride_page,
            stride_token,
            scale_log2,
            MASKED=True,
            HEAD_DIM=HEAD_DIM,
            BLOCK=BLOCK,
            PAGE=PAGE,
        )
        o_part = (i_s * num_heads + i_h) * num_splits + i_split
        tl.store(acc_ptr + o_part[:, None] * HEAD_DIM + o_d[None, :], b_acc, mask=m_g[:, None])
        tl.store(max_ptr + o_part, b_max, mask=m_g)
        tl.store(sum_ptr + o_part, b_sum, mask=m_g)


@triton.jit(do_not_specialize=["num_splits"])
def merge_splits_kernel(
    acc_ptr,
    max_ptr,
    sum_ptr,
    kv_lens_ptr,
    out_ptr,  # [S, H, D]
    num_splits,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,  # splits merged at a time; constant, because it is part of the order of the sum
    SHORT: tl.constexpr,
    MIDDLE: tl.constexpr,
    SHORT_SPLIT: tl.constexpr,
    MIDDLE_SPLIT: tl.constexpr,
    LONG_SPLIT: tl.constexpr,
    PDL: tl.constexpr,
):
    i_s = tl.program_id(0).to(tl.int64)
    i_row = i_s * tl.num_programs(1) + tl.program_id(1)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    kv_len = tl.load(kv_lens_ptr + i_s)
    used = tl.cdiv(kv_len, split_len_of(kv_len, SHORT, MIDDLE, SHORT_SPLIT, MIDDLE_SPLIT, LONG_SPLIT))
    o_d = tl.arange(0, HEAD_DIM)
    b_acc = tl.zeros([HEAD_DIM], dtype=tl.float32)
    b_max = float("-inf")
    b_sum = 0.0
    for start in range(0, used, BLOCK):
        o_j = start + tl.arange(0, BLOCK)
        m_j = o_j < used
        o_part = i_row * num_splits + o_j
        b_max_j = tl.load(max_ptr + o_part, mask=m_j, other=float("-inf"))
        b_sum_j = tl.load(sum_ptr + o_part, mask=m_j, other=0.0)
        b_acc_j = tl.load(acc_ptr + o_part[:, None] * HEAD_DIM + o_d[None, :], mask=m_j[:, None], other=0.0)
        b_new = tl.maximum(b_max, tl.max(b_max_j, axis=0))
        b_scale = tl.exp2(b_max - b_new)
        b_weight = tl.exp2(b_max_j - b_new)
        b_sum = b_sum * b_scale + tl.sum(b_sum_j * b_weight, axis=0)
        b_acc = b_acc * b_scale + tl.sum(b_acc_j * b_weight[:, None], axis=0)
        b_max = b_new
    b_out = b_acc / tl.where(used > 0, b_sum, 1.0)  # no keys: zeros, not 0 / 0
    tl.store(out_ptr + i_row * HEAD_DIM + o_d, b_out.to(out_ptr.dtype.element_ty))
