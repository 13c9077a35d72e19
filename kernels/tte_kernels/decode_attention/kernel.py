"""Triton kernels of decode_attention and their launcher: split the keys, then merge the splits.

One program takes one split of one kv head of one sequence, with all query heads of that kv head as the rows
of its tile (padded to 16, the least a tensor core takes), so that keys and values are read once. The length
of a split is a function of the sequence's own kv_len; the merge adds splits in ascending order. Grid sizes
follow from shapes only, so that one CUDA graph serves all lengths. Arguments are taken as checked by the
door.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from tte_kernels._attend import BLOCK_N, LOG2_E, PAGE_SIZE, attend_tiles
from tte_kernels._case import CompileSpec
from tte_kernels._launch import launch_options, pdl_enabled, require_backend

__all__ = ["compile_specs", "decode_attention_kernel", "launch", "max_splits", "merge_splits_kernel"]


@dataclass(frozen=True)
class _Config:
    num_warps: int
    num_stages: int


# Keyed by (head dim, bytes an element). Page numbers take a stage of their own, so five stages keep two tiles
# of keys and values in flight; a split is one to four tiles long.
# Compiled and gated, unmeasured on hardware.
_CONFIGS: dict[tuple[int, int], _Config] = {
    (32, 2): _Config(4, 5),
    (64, 2): _Config(4, 5),
    (128, 2): _Config(4, 5),
    (32, 4): _Config(4, 2),
    (64, 4): _Config(8, 1),
    (128, 4): _Config(8, 1),
}
BLOCK_H = 16
MERGE_SPLITS = 16
# (longest kv_len, keys a split): short sequences want many programs, long ones little to merge. These numbers
# are part of a row's bits: changing them changes results by rounding, for every index in use.
_SHORT, _SHORT_SPLIT = 1024, 64
_MIDDLE, _MIDDLE_SPLIT = 4096, 128
_LONG_SPLIT = 256


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


@triton.jit
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
    i_split = tl.program_id(2)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    kv_len = tl.load(kv_lens_ptr + i_s)
    split_len = split_len_of(kv_len, SHORT, MIDDLE, SHORT_SPLIT, MIDDLE_SPLIT, LONG_SPLIT)
    lo = i_split * split_len
    if lo >= kv_len:
        return
    hi = tl.minimum(lo + split_len, kv_len)

    o_g = tl.arange(0, ROWS)
    o_d = tl.arange(0, HEAD_DIM)
    m_g = o_g < GROUP
    i_h = i_k * GROUP + o_g
    p_q = q_ptr + i_s * stride_qs + i_h[:, None] * stride_qh + o_d[None, :]
    b_q = tl.load(p_q, mask=m_g[:, None], other=0.0)
    p_keys = kv_ptr + i_k * stride_head
    b_acc, b_max, b_sum = attend_tiles(
        b_q,
        tl.zeros([ROWS, HEAD_DIM], dtype=tl.float32),
        tl.full([ROWS], float("-inf"), dtype=tl.float32),
        tl.zeros([ROWS], dtype=tl.float32),
        tl.zeros([ROWS], dtype=tl.int32) + (kv_len - 1),
        lo,
        hi,
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
    num_heads = tl.num_programs(1) * GROUP
    o_part = (i_s * num_heads + i_h) * num_splits + i_split
    tl.store(acc_ptr + o_part[:, None] * HEAD_DIM + o_d[None, :], b_acc, mask=m_g[:, None])
    tl.store(max_ptr + o_part, b_max, mask=m_g)
    tl.store(sum_ptr + o_part, b_sum, mask=m_g)


@triton.jit
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


_SPLITS = {
    "SHORT": _SHORT,
    "MIDDLE": _MIDDLE,
    "SHORT_SPLIT": _SHORT_SPLIT,
    "MIDDLE_SPLIT": _MIDDLE_SPLIT,
    "LONG_SPLIT": _LONG_SPLIT,
}


def max_splits(capacity: int) -> int:
    """The most splits that any sequence of up to `capacity` keys is cut into."""
    most = triton.cdiv(min(capacity, _SHORT), _SHORT_SPLIT)
    if capacity > _SHORT:
        most = max(most, triton.cdiv(min(capacity, _MIDDLE), _MIDDLE_SPLIT))
    if capacity > _MIDDLE:
        most = max(most, triton.cdiv(capacity, _LONG_SPLIT))
    return most


def launch(
    q: torch.Tensor, kv_pages: torch.Tensor, page_table: torch.Tensor, kv_lens: torch.Tensor, *, scale: float
) -> torch.Tensor:
    """Unchecked decode_attention; see the door for the contract. An empty batch launches nothing."""
    require_backend("decode_attention", q)
    num_seqs, num_heads, head_dim = q.shape
    out = torch.empty((num_seqs, num_heads, head_dim), dtype=q.dtype, device=q.device)
    if num_seqs == 0:
        return out
    num_kv_heads = kv_pages.shape[2]
    num_splits = max(1, max_splits(page_table.shape[1] * PAGE_SIZE))
    config = _CONFIGS[head_dim, q.element_size()]
    parts = (num_seqs, num_heads, num_splits)
    acc = torch.empty((*parts, head_dim), dtype=torch.float32, device=q.device)
    maxima, sums = torch.empty((2, *parts), dtype=torch.float32, device=q.device)
    decode_attention_kernel[(num_seqs, num_kv_heads, num_splits)](
        q,
        kv_pages,
        page_table,
        kv_lens,
        acc,
        maxima,
        sums,
        scale * LOG2_E,
        num_splits,
        q.stride(0),
        q.stride(1),
        *kv_pages.stride()[:4],
        page_table.stride(0),
        GROUP=num_heads // num_kv_heads,
        HEAD_DIM=head_dim,
        ROWS=BLOCK_H,
        BLOCK=BLOCK_N,
        PAGE=PAGE_SIZE,
        PDL=pdl_enabled(),
        **_SPLITS,
        **launch_options(config.num_warps, config.num_stages),
    )
    merge_splits_kernel[(num_seqs, num_heads)](
        acc,
        maxima,
        sums,
        kv_lens,
        out,
        num_splits,
        HEAD_DIM=head_dim,
        BLOCK=MERGE_SPLITS,
        PDL=pdl_enabled(),
        **_SPLITS,
        **launch_options(1, 1),
    )
    return out


def compile_specs() -> list[CompileSpec]:
    """Every head dim in bf16 and fp32 at six heads a kv head, the extremes of grouping, and the merge."""
    variants = [(dim, size, 6, False) for dim, size in _CONFIGS]
    variants += [(128, 2, group, False) for group in (1, 7, 16)] + [(128, 2, 6, True)]
    return [_split_spec(*variant) for variant in variants] + [
        _merge_spec(dim, False) for dim in (32, 64, 128)
    ]


def _split_spec(head_dim: int, itemsize: int, group: int, pdl: bool) -> CompileSpec:
    dtype, config = {2: "bf16", 4: "fp32"}[itemsize], _CONFIGS[head_dim, itemsize]
    strides = ("stride_qs", "stride_qh", "stride_half", "stride_page", "stride_head", "stride_token")
    signature = {"q_ptr": f"*{dtype}", "kv_ptr": f"*{dtype}", "table_ptr": "*i32", "kv_lens_ptr": "*i32"}
    signature |= {"acc_ptr": "*fp32", "max_ptr": "*fp32", "sum_ptr": "*fp32", "scale_log2": "fp32"}
    signature |= {name: "i32" for name in ("num_splits", "stride_table")} | {name: "i32" for name in strides}
    constexprs = {"GROUP": group, "HEAD_DIM": head_dim, "ROWS": BLOCK_H, "BLOCK": BLOCK_N, "PAGE": PAGE_SIZE}
    return CompileSpec(
        name=f"decode_attention_kernel/{dtype}-D{head_dim}-G{group}{'-pdl' if pdl else ''}",
        fn=decode_attention_kernel,
        signature=signature,
        constexprs=constexprs | _SPLITS | {"PDL": pdl},
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        streamed=True,
        aligned=strides,
    )


def _merge_spec(head_dim: int, pdl: bool) -> CompileSpec:
    pointers = {name: "*fp32" for name in ("acc_ptr", "max_ptr", "sum_ptr")}
    return CompileSpec(
        name=f"merge_splits_kernel/bf16-D{head_dim}",
        fn=merge_splits_kernel,
        signature=pointers | {"kv_lens_ptr": "*i32", "out_ptr": "*bf16", "num_splits": "i32"},
        constexprs={"HEAD_DIM": head_dim, "BLOCK": MERGE_SPLITS, "PDL": pdl} | _SPLITS,
        num_warps=1,
        num_stages=1,
        streamed=True,
        max_registers=160,
    )
