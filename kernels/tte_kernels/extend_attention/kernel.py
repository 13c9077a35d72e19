"""Triton kernel of extend_attention and its launcher: a tile of queries against tiles of 64 keys.

The rows of a tile are some consecutive new tokens times all query heads of one kv head, so that keys and
values are read once for the group and short chunks still fill a tile. Tiles that every row sees whole are
taken without masks, the few on the diagonal with them; both round alike, because multiply-adds are not fused
(`enable_fp_fusion=False`): which of the two a key falls into depends on the chunk, and must not show.
Arguments are taken as checked by the door.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from tte_kernels._attend import BLOCK_N, LOG2_E, PAGE_SIZE, attend_tiles
from tte_kernels._case import CompileSpec
from tte_kernels._launch import launch_options, pdl_enabled, require_backend

__all__ = ["compile_specs", "extend_attention_kernel", "launch"]


@dataclass(frozen=True)
class _Config:
    block_m: int
    num_warps: int
    num_stages: int


# Keyed by (head dim, bytes an element); one tile for all lengths, because a row's bits may depend on its
# instruction. Compiled and gated, unmeasured on hardware.
_CONFIGS: dict[tuple[int, int], _Config] = {
    (32, 2): _Config(64, 4, 3),
    (64, 2): _Config(128, 4, 3),
    (128, 2): _Config(128, 8, 3),
    (32, 4): _Config(32, 4, 2),
    (64, 4): _Config(32, 8, 1),
    (128, 4): _Config(32, 8, 1),
}


# Not specialised on the width of the page table: 1 and multiples of 16 would each be compiled anew, within
# somebody's request.
@triton.jit(do_not_specialize=["stride_table"])
def extend_attention_kernel(
    q_ptr,  # [T, H, D]
    kv_ptr,  # [2, N, K, 16, D]
    table_ptr,  # [S, P] int32
    cu_seqlens_ptr,  # [S + 1] int32
    kv_lens_ptr,  # [S] int32
    out_ptr,  # [T, H, D]
    scale_log2,
    stride_qt,
    stride_qh,
    stride_half,
    stride_page,
    stride_head,
    stride_token,
    stride_table,
    stride_ot,
    GROUP: tl.constexpr,  # query heads a kv head
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,  # rows of a tile, at least GROUP
    BLOCK: tl.constexpr,
    PAGE: tl.constexpr,
    PDL: tl.constexpr,
):
    QUERIES: tl.constexpr = ROWS // GROUP
    i_s = tl.program_id(1).to(tl.int64)
    i_k = tl.program_id(2).to(tl.int64)
    # Late tokens see the most keys: begin with them, so that the last programs to run are the short ones.
    i_tile = tl.num_programs(0) - 1 - tl.program_id(0)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    begin = tl.load(cu_seqlens_ptr + i_s)
    query_len = tl.load(cu_seqlens_ptr + i_s + 1) - begin
    first = i_tile * QUERIES
    if first >= query_len:
        return
    kv_len = tl.load(kv_lens_ptr + i_s)
    prefix = kv_len - query_len

    o_r = tl.arange(0, ROWS)
    o_d = tl.arange(0, HEAD_DIM)
    i_query = first + o_r // GROUP
    m_r = (o_r < QUERIES * GROUP) & (i_query < query_len)
    o_t = (begin + i_query).to(tl.int64)
    i_h = i_k * GROUP + o_r % GROUP
    p_q = q_ptr + (o_t * stride_qt + i_h * stride_qh)[:, None] + o_d[None, :]
    b_q = tl.load(p_q, mask=m_r[:, None], other=0.0)

    o_pos = prefix + i_query
    # Keys before `whole` are seen by every row of the tile; `end` is behind the last key that any row sees.
    whole = (prefix + first + 1) // BLOCK * BLOCK
    end = tl.minimum(prefix + first + QUERIES, kv_len)
    p_table = table_ptr + i_s * stride_table
    p_keys = kv_ptr + i_k * stride_head
    p_values = p_keys + stride_half
    b_acc = tl.zeros([ROWS, HEAD_DIM], dtype=tl.float32)
    b_max = tl.full([ROWS], float("-inf"), dtype=tl.float32)
    b_sum = tl.zeros([ROWS], dtype=tl.float32)
    for MASKED in tl.static_range(2):
        b_acc, b_max, b_sum = attend_tiles(
            b_q,
            b_acc,
            b_max,
            b_sum,
            o_pos,
            whole if MASKED else 0,
            end if MASKED else whole,
            kv_len,
            p_table,
            p_keys,
            p_values,
            stride_page,
            stride_token,
            scale_log2,
            MASKED=MASKED,
            HEAD_DIM=HEAD_DIM,
            BLOCK=BLOCK,
            PAGE=PAGE,
        )
    b_out = b_acc / b_sum[:, None]
    p_out = out_ptr + (o_t * stride_ot + i_h * HEAD_DIM)[:, None] + o_d[None, :]
    tl.store(p_out, b_out.to(out_ptr.dtype.element_ty), mask=m_r[:, None])


def launch(
    q: torch.Tensor,
    kv_pages: torch.Tensor,
    page_table: torch.Tensor,
    cu_seqlens: torch.Tensor,
    kv_lens: torch.Tensor,
    *,
    scale: float,
    max_query_len: int,
) -> torch.Tensor:
    """Unchecked extend_attention; see the door for the contract. An empty batch launches nothing."""
    require_backend("extend_attention", q)
    num_tokens, num_heads, head_dim = q.shape
    out = torch.empty((num_tokens, num_heads, head_dim), dtype=q.dtype, device=q.device)
    if num_tokens == 0:
        return out
    num_kv_heads = kv_pages.shape[2]
    group = num_heads // num_kv_heads
    config = _CONFIGS[head_dim, q.element_size()]
    num_tiles = triton.cdiv(min(max_query_len, num_tokens), config.block_m // group)
    extend_attention_kernel[(num_tiles, page_table.shape[0], num_kv_heads)](
        q,
        kv_pages,
        page_table,
        cu_seqlens,
        kv_lens,
        out,
        scale * LOG2_E,
        q.stride(0),
        q.stride(1),
        *kv_pages.stride()[:4],
        page_table.stride(0),
        out.stride(0),
        GROUP=group,
        HEAD_DIM=head_dim,
        ROWS=config.block_m,
        BLOCK=BLOCK_N,
        PAGE=PAGE_SIZE,
        PDL=pdl_enabled(),
        **launch_options(config.num_warps, config.num_stages),
    )
    return out


def compile_specs() -> list[CompileSpec]:
    """Every head dim in bf16 and fp32 at six heads a kv head, the models' groups, and the extremes of grouping."""
    variants = [(dim, size, 6, False) for dim, size in _CONFIGS] + [(32, 2, 3, False)]
    variants += [(128, 2, group, False) for group in (1, 2, 4, 7, 8, 16)] + [(dim, 2, 6, True) for dim in (32, 64, 128)]
    halves = [_spec(dim, 2, 6, False, "fp16") for dim in (32, 64, 128)]
    return [_spec(*variant) for variant in variants] + halves


def _spec(head_dim: int, itemsize: int, group: int, pdl: bool, half: str = "bf16") -> CompileSpec:
    dtype, config = {2: half, 4: "fp32"}[itemsize], _CONFIGS[head_dim, itemsize]
    strides = (
        "stride_qt",
        "stride_qh",
        "stride_half",
        "stride_page",
        "stride_head",
        "stride_token",
        "stride_ot",
    )
    signature = {name: f"*{dtype}" for name in ("q_ptr", "kv_ptr", "out_ptr")}
    signature |= {name: "*i32" for name in ("table_ptr", "cu_seqlens_ptr", "kv_lens_ptr")}
    signature |= {"scale_log2": "fp32", "stride_table": "i32"} | {name: "i32" for name in strides}
    constexprs = {
        "GROUP": group,
        "HEAD_DIM": head_dim,
        "ROWS": config.block_m,
        "BLOCK": BLOCK_N,
        "PAGE": PAGE_SIZE,
    }
    return CompileSpec(
        name=f"extend_attention_kernel/{dtype}-D{head_dim}-G{group}{'-pdl' if pdl else ''}",
        fn=extend_attention_kernel,
        signature=signature,
        constexprs=constexprs | {"PDL": pdl},
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        streamed=True,
        aligned=strides,
    )
