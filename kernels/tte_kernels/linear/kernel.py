"""Triton code of `linear`: a tiled matrix product whose sum over k has one order for every number of rows.

The tile (BLOCK_T x BLOCK_O) may change with T, because it only decides which program computes an element; the
chain of an element is the same in all of them: BLOCK_I = 64 of k at a time, ascending, into one fp32
accumulator, and no split of k between programs. All tiles have at least 64 rows, so that sm_90 runs every one
of them on the same instruction (wgmma). That instructions of different widths round alike is an assumption
about the hardware, to be held by the invariance cases on it. This file does not know the contract's checks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from tte_kernels._case import CompileSpec
from tte_kernels._launch import launch_options, pdl_enabled, require_backend

__all__ = ["choose_tile", "compile_specs", "launch", "linear_kernel"]


@dataclass(frozen=True)
class Tile:
    """One shipped configuration. `block_i` must be equal in all tiles of one table."""

    block_t: int
    block_o: int
    block_i: int
    num_warps: int
    num_stages: int


# Largest first; compiled and gated, unmeasured on hardware. The widest has no registers left for an
# epilogue's operands (33 spills on sm_90 with bias and residual).
TILES: tuple[Tile, ...] = (
    Tile(128, 256, 64, num_warps=8, num_stages=3),
    Tile(128, 128, 64, num_warps=8, num_stages=3),
    Tile(64, 64, 64, num_warps=4, num_stages=4),
)
# With SwiGLU a program computes block_o columns of gate and as many of up, so it holds two accumulators.
SWIGLU_TILES: tuple[Tile, ...] = (Tile(128, 128, 64, num_warps=8, num_stages=3), TILES[-1])
# fp32 runs without tensor cores (exact products): it is the path of parity checks, not of speed.
# As many stages as spill nothing in either version of Triton.
TILE_FP32 = Tile(64, 64, 32, num_warps=4, num_stages=3)
SWIGLU_TILE_FP32 = Tile(64, 64, 32, num_warps=4, num_stages=2)
# Programs that fill the card once (132 SMs of an H200). A constant, so that the choice of a tile is
# reproducible.
ENOUGH_PROGRAMS = 132
LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
# Row tiles that share weight tiles in L2 before the next column of weights is begun.
GROUP_T = 8


# Not specialised on the size that changes with every batch: a value of 1 or a multiple of 16 would each be
# compiled anew, within somebody's request.
@triton.jit(do_not_specialize=["num_tokens"])
def linear_kernel(
    x_ptr,  # [T, I]
    w_ptr,  # [O, I]
    bias_ptr,  # [O] or None
    residual_ptr,  # [T, O] or None
    y_ptr,  # [T, O]
    num_tokens,
    columns,  # O, or O / 2 with SWIGLU
    in_features,
    stride_xt,
    stride_wo,
    stride_rt,
    stride_yt,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    SWIGLU: tl.constexpr,
    EVEN_I: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
    PDL: tl.constexpr,
):
    i_p = tl.program_id(0)
    num_t = tl.cdiv(num_tokens, BLOCK_T)
    num_o = tl.cdiv(columns, BLOCK_O)
    # Walk GROUP row tiles by one column, then the next column: neighbours in time share weights in L2.
    i_group = i_p // (GROUP * num_o)
    group_rows = tl.minimum(num_t - i_group * GROUP, GROUP)
    i_in = i_p % (GROUP * num_o)
    i_t = (i_group * GROUP + i_in % group_rows).to(tl.int64)
    i_o = (i_in // group_rows).to(tl.int64)

    o_t = i_t * BLOCK_T + tl.arange(0, BLOCK_T)
    o_o = i_o * BLOCK_O + tl.arange(0, BLOCK_O)
    o_i = tl.arange(0, BLOCK_I)
    m_t = o_t < num_tokens
    m_o = o_o < columns
    p_x = x_ptr + o_t[:, None] * stride_xt + o_i[None, :]  # [BLOCK_T, BLOCK_I]
    p_w = w_ptr + o_o[:, None] * stride_wo + o_i[None, :]  # [BLOCK_O, BLOCK_I]
    up = tl.cast(columns, tl.int64) * stride_wo

    if PDL:
        tl.extra.cuda.gdc_wait()
    b_y = tl.zeros([BLOCK_T, BLOCK_O], dtype=tl.float32)
    b_up = b_y
    for start in range(0, in_features, BLOCK_I):
        if EVEN_I:
            b_x = tl.load(p_x, mask=m_t[:, None], other=0.0)
            m_w = m_o[:, None]
        else:
            m_i = start + o_i < in_features
            b_x = tl.load(p_x, mask=m_t[:, None] & m_i[None, :], other=0.0)
            m_w = m_o[:, None] & m_i[None, :]
        b_w = tl.load(p_w, mask=m_w, other=0.0)
        b_y = tl.dot(b_x, tl.trans(b_w), b_y, input_precision="ieee")
        if SWIGLU:
            b_w = tl.load(p_w + up, mask=m_w, other=0.0)
            b_up = tl.dot(b_x, tl.trans(b_w), b_up, input_precision="ieee")
        p_x += BLOCK_I
        p_w += BLOCK_I
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()

    if SWIGLU:
        # silu(gate) * up with one division and exp2: tl.sigmoid costs more registers than the widest tile has.
        b_y = b_y * b_up / (1.0 + tl.exp2(b_y * -LOG2_E))
    m_y = m_t[:, None] & m_o[None, :]
    if HAS_BIAS:
        b_y += tl.load(bias_ptr + o_o, mask=m_o, other=0.0).to(tl.float32)[None, :]
    if HAS_RESIDUAL:
        p_r = residual_ptr + o_t[:, None] * stride_rt + o_o[None, :]
        b_y += tl.load(p_r, mask=m_y, other=0.0).to(tl.float32)
    p_y = y_ptr + o_t[:, None] * stride_yt + o_o[None, :]
    tl.store(p_y, b_y.to(y_ptr.dtype.element_ty), mask=m_y)


def choose_tile(num_tokens: int, columns: int, dtype: torch.dtype, has_epilogue: bool, swiglu: bool = False) -> Tile:
    """The largest tile that still gives every SM a program; the smallest where none does."""
    if dtype == torch.float32:
        return SWIGLU_TILE_FP32 if swiglu else TILE_FP32
    tiles = SWIGLU_TILES if swiglu else TILES[1:] if has_epilogue else TILES
    for tile in tiles[:-1]:
        programs = triton.cdiv(num_tokens, tile.block_t) * triton.cdiv(columns, tile.block_o)
        if programs >= ENOUGH_PROGRAMS:
            return tile
    return TILES[-1]


def launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    *,
    swiglu: bool = False,
) -> torch.Tensor:
    """Unchecked linear; see the door for the contract. An empty result launches nothing."""
    require_backend("linear", x)
    num_tokens, in_features = x.shape
    columns = weight.shape[0] // 2 if swiglu else weight.shape[0]
    y = torch.empty(num_tokens, columns, dtype=x.dtype, device=x.device)
    if y.numel() == 0:
        return y
    tile = choose_tile(num_tokens, columns, x.dtype, bias is not None or residual is not None, swiglu)
    grid = (triton.cdiv(num_tokens, tile.block_t) * triton.cdiv(columns, tile.block_o),)
    linear_kernel[grid](
        x,
        weight,
        bias,
        residual,
        y,
        num_tokens,
        columns,
        in_features,
        x.stride(0),
        weight.stride(0),
        residual.stride(0) if residual is not None else 0,
        y.stride(0),
        HAS_BIAS=bias is not None,
        HAS_RESIDUAL=residual is not None,
        SWIGLU=swiglu,
        EVEN_I=in_features % tile.block_i == 0,
        GROUP=GROUP_T,
        BLOCK_T=tile.block_t,
        BLOCK_O=tile.block_o,
        BLOCK_I=tile.block_i,
        PDL=pdl_enabled(),
        **launch_options(tile.num_warps, tile.num_stages),
    )
    return y


def compile_specs() -> list[CompileSpec]:
    """Every tile with each of what layers make of it, in every dtype, and in bf16 with PDL as well."""
    kinds = {"": TILES, "bias": TILES[1:], "residual": TILES[1:], "swiglu": SWIGLU_TILES}
    halves = [(dtype, kind, tile) for dtype in ("bf16", "fp16") for kind, tiles in kinds.items() for tile in tiles]
    specs = [_spec(*variant) for variant in halves] + [
        _spec("fp32", kind, SWIGLU_TILE_FP32 if kind == "swiglu" else TILE_FP32) for kind in kinds
    ]
    specs += [_spec("bf16", kind, tile, pdl=True) for kind, tiles in kinds.items() for tile in tiles]
    specs += [_spec("bf16", "", tile, even=False) for tile in TILES]
    return specs + [_spec(dtype, "bias-residual", TILES[1]) for dtype in ("bf16", "fp16")]


def _spec(dtype: str, kind: str, tile: Tile, *, pdl: bool = False, even: bool = True) -> CompileSpec:
    has_bias, has_residual, swiglu = "bias" in kind, "residual" in kind, kind == "swiglu"
    optional = {"bias_ptr": has_bias, "residual_ptr": has_residual}
    integers = ("num_tokens", "columns", "in_features", "stride_xt", "stride_wo", "stride_rt", "stride_yt")
    pointers = ["x_ptr", "w_ptr", "y_ptr", *(name for name, given in optional.items() if given)]
    constexprs = {"HAS_BIAS": has_bias, "HAS_RESIDUAL": has_residual, "SWIGLU": swiglu, "EVEN_I": even, "PDL": pdl}
    constexprs |= {"BLOCK_T": tile.block_t, "BLOCK_O": tile.block_o, "BLOCK_I": tile.block_i, "GROUP": GROUP_T}
    suffix = "".join(f"-{name}" for name in (kind, "" if even else "uneven", "pdl" if pdl else "") if name)
    return CompileSpec(
        name=f"linear_kernel/{dtype}-{tile.block_t}x{tile.block_o}{suffix}",
        fn=linear_kernel,
        signature={name: f"*{dtype}" for name in pointers} | {name: "i32" for name in integers},
        constexprs=constexprs | {name: None for name, given in optional.items() if not given},
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        streamed=True,
        aligned=integers[1:],
    )
