"""Triton kernels of sample and their launcher.

The first scores a tile of the vocabulary for sixteen rows and keeps the best token of each; the second picks
the best tile of a row and compares its token with the row's stop ids. Rows are padded to sixteen and the tile
never changes, so a row's bits do not depend on how many there are. The weight is the left operand of the product:
it is what streams, and 64 of its rows fill a tensor core tile. Arguments are taken as checked by the door. Knows
nothing of requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from tte_kernels._case import CompileSpec
from tte_kernels._launch import launch_options, pdl_enabled, require_backend

__all__ = ["compile_specs", "launch", "sample_kernel", "sample_reduce_kernel"]


@dataclass(frozen=True)
class _Config:
    block_v: int
    block_s: int
    block_c: int
    num_warps: int
    num_stages: int


# Keyed by bytes an element. Four stages of 16 KiB (18 KiB with the hidden states) leave room for three
# programs a multiprocessor. The tile must not depend on S. Compiled and gated, unmeasured on hardware.
_CONFIGS: dict[int, _Config] = {2: _Config(64, 16, 128, 4, 4), 4: _Config(64, 16, 64, 4, 4)}
_REDUCE = _Config(1, 1, 1024, 4, 1)  # block_c is tiles a step
_BLOCK_STOPS = 16


@triton.jit
def _gumbel(seed, position, trace_index, token):
    """Noise of [token] x [row]; see reference.py for the formula and why it is written so."""
    zero = tl.zeros_like(position).to(tl.int32)
    word, _, _, _ = tl.philox(seed, token, position.to(tl.int32), trace_index.to(tl.int32), zero)
    v = (word.to(tl.float32) + 0.5) * 2.3283064365386963e-10
    small = v * (1.0 + v * (0.5 + v * (0.3333333432674408 + v * 0.25)))
    large = -tl.log(tl.maximum(1.0 - v, 2.9802322387695312e-08))
    return -tl.log(tl.where(v < 0.015625, small, large))


# Not specialised on the number of rows: 1 and multiples of 16 would each be compiled anew, within somebody's
# request.
@triton.jit(do_not_specialize=["S"])
def sample_kernel(
    hidden_ptr,
    weight_ptr,
    temperature_ptr,
    seed_ptr,
    position_ptr,
    trace_ptr,
    best_ptr,
    best_id_ptr,
    stride_hs,
    S,
    V,
    C,
    NUM_TILES,
    BLOCK_V: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PDL: tl.constexpr,
):
    # Programs of one tile are neighbours, so that only the first of them reads the weight from memory.
    i_tile = tl.program_id(0) // tl.cdiv(S, BLOCK_S)
    i_block = tl.program_id(0) % tl.cdiv(S, BLOCK_S)
    o_v = i_tile * BLOCK_V + tl.arange(0, BLOCK_V)
    o_s = i_block * BLOCK_S + tl.arange(0, BLOCK_S)
    o_c = tl.arange(0, BLOCK_C)
    m_v = o_v < V
    m_s = o_s < S
    p_w = weight_ptr + o_v.to(tl.int64)[:, None] * C + o_c[None, :]
    p_h = hidden_ptr + o_s.to(tl.int64)[None, :] * stride_hs + o_c[:, None]
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()

    b_logit = tl.zeros([BLOCK_V, BLOCK_S], tl.float32)
    for i_c in range(0, C, BLOCK_C):
        m_c = i_c + o_c < C
        b_w = tl.load(p_w + i_c, mask=m_v[:, None] & m_c[None, :], other=0.0)
        b_h = tl.load(p_h + i_c, mask=m_c[:, None] & m_s[None, :], other=0.0)
        b_logit = tl.dot(b_w, b_h, b_logit, input_precision="ieee")

    b_temperature = tl.load(temperature_ptr + o_s, mask=m_s, other=0.0)
    b_score = b_logit
    if tl.max(b_temperature, axis=0) > 0:  # a block of greedy rows draws nothing
        b_seed = tl.load(seed_ptr + o_s, mask=m_s, other=0)
        b_position = tl.load(position_ptr + o_s, mask=m_s, other=0)
        b_trace = tl.load(trace_ptr + o_s, mask=m_s, other=0)
        b_noise = _gumbel(b_seed[None, :], b_position[None, :], b_trace[None, :], o_v[:, None])
        b_drawn = b_temperature > 0
        b_divisor = tl.broadcast_to(tl.where(b_drawn, b_temperature, 1.0)[None, :], [BLOCK_V, BLOCK_S])
        b_score = tl.where(b_drawn[None, :], tl.div_rn(b_logit, b_divisor) + b_noise, b_logit)
    # NaN is not equal to itself; it and the rows past V lose to everything.
    b_score = tl.where(m_v[:, None] & (b_score == b_score), b_score, float("-inf"))
    b_best, b_at = tl.max(b_score, axis=0, return_indices=True, return_indices_tie_break_left=True)
    p_out = o_s.to(tl.int64) * NUM_TILES + i_tile
    tl.store(best_ptr + p_out, b_best, mask=m_s)
    tl.store(best_id_ptr + p_out, i_tile * BLOCK_V + b_at, mask=m_s)


@triton.jit(do_not_specialize=["NUM_STOPS"])
def sample_reduce_kernel(
    best_ptr,
    best_id_ptr,
    stop_ptr,
    out_ptr,
    NUM_TILES,
    NUM_STOPS,
    BLOCK_TILES: tl.constexpr,
    BLOCK_STOPS: tl.constexpr,
    PDL: tl.constexpr,
):
    i_s = tl.program_id(0).to(tl.int64)
    o_tile = tl.arange(0, BLOCK_TILES)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    best = float("-inf")
    best_tile = 0
    for i_tile in range(0, NUM_TILES, BLOCK_TILES):
        m_tile = i_tile + o_tile < NUM_TILES
        b_best = tl.load(best_ptr + i_s * NUM_TILES + i_tile + o_tile, mask=m_tile, other=float("-inf"))
        top, at = tl.max(b_best, axis=0, return_indices=True, return_indices_tie_break_left=True)
        best_tile = tl.where(top > best, i_tile + at, best_tile)  # strictly: a tie stays with the lower id
        best = tl.maximum(best, top)
    token = tl.load(best_id_ptr + i_s * NUM_TILES + best_tile).to(tl.int64)
    stops = 0
    for i_stop in range(0, NUM_STOPS, BLOCK_STOPS):
        o_stop = i_stop + tl.arange(0, BLOCK_STOPS)
        b_stop = tl.load(stop_ptr + i_s * NUM_STOPS + o_stop, mask=o_stop < NUM_STOPS, other=-1)
        stops = tl.maximum(stops, tl.max((b_stop == token).to(tl.int32), axis=0))
    tl.store(out_ptr + 2 * i_s, token)
    tl.store(out_ptr + 2 * i_s + 1, stops.to(tl.int64))


def launch(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    temperature: torch.Tensor,
    seed: torch.Tensor,
    position: torch.Tensor,
    trace_index: torch.Tensor,
    stop_ids: torch.Tensor,
) -> torch.Tensor:
    """Unchecked sample; see the door for the contract. An empty batch launches nothing."""
    require_backend("sample", hidden)
    num_rows, vocabulary = hidden.shape[0], weight.shape[0]
    out = torch.empty((num_rows, 2), dtype=torch.int64, device=hidden.device)
    if num_rows:
        config = _CONFIGS[hidden.itemsize]
        num_tiles = triton.cdiv(vocabulary, config.block_v)
        best = torch.empty((num_rows, num_tiles), dtype=torch.float32, device=hidden.device)
        best_id = torch.empty((num_rows, num_tiles), dtype=torch.int32, device=hidden.device)
        sample_kernel[(num_tiles * triton.cdiv(num_rows, config.block_s),)](
            hidden,
            weight,
            temperature,
            seed,
            position,
            trace_index,
            best,
            best_id,
            hidden.stride(0),
            num_rows,
            vocabulary,
            hidden.shape[1],
            num_tiles,
            BLOCK_V=config.block_v,
            BLOCK_S=config.block_s,
            BLOCK_C=config.block_c,
            PDL=pdl_enabled(),
            **launch_options(config.num_warps, config.num_stages),
        )
        sample_reduce_kernel[(num_rows,)](
            best,
            best_id,
            stop_ids,
            out,
            num_tiles,
            stop_ids.shape[1],
            BLOCK_TILES=_REDUCE.block_c,
            BLOCK_STOPS=_BLOCK_STOPS,
            PDL=pdl_enabled(),
            **launch_options(_REDUCE.num_warps, _REDUCE.num_stages),
        )
    return out


def compile_specs() -> list[CompileSpec]:
    """Both kernels, for 16-bit and 32-bit weights, with and without programmatic dependent launch."""
    per_row = {"temperature_ptr": "*fp32", "seed_ptr": "*i64", "position_ptr": "*i64", "trace_ptr": "*i64"}
    sizes = dict.fromkeys(("stride_hs", "S", "V", "C", "NUM_TILES"), "i32")
    specs = [
        CompileSpec(
            name=f"sample_kernel/{dtype}{'-pdl' if pdl else ''}",
            fn=sample_kernel,
            signature={
                "hidden_ptr": f"*{dtype}",
                "weight_ptr": f"*{dtype}",
                **per_row,
                "best_ptr": "*fp32",
                "best_id_ptr": "*i32",
                **sizes,
            },
            constexprs={
                "BLOCK_V": _CONFIGS[size].block_v,
                "BLOCK_S": _CONFIGS[size].block_s,
                "BLOCK_C": _CONFIGS[size].block_c,
                "PDL": pdl,
            },
            num_warps=_CONFIGS[size].num_warps,
            num_stages=_CONFIGS[size].num_stages,
            streamed=True,
            aligned=("stride_hs", "C"),
        )
        for dtype, size, pdl in (
            ("bf16", 2, False),
            ("bf16", 2, True),
            ("fp16", 2, False),
            ("fp32", 4, False),
        )
    ]
    specs += [
        CompileSpec(
            name=f"sample_reduce_kernel/{'pdl' if pdl else 'plain'}",
            fn=sample_reduce_kernel,
            signature={
                "best_ptr": "*fp32",
                "best_id_ptr": "*i32",
                "stop_ptr": "*i64",
                "out_ptr": "*i64",
                "NUM_TILES": "i32",
                "NUM_STOPS": "i32",
            },
            constexprs={"BLOCK_TILES": _REDUCE.block_c, "BLOCK_STOPS": _BLOCK_STOPS, "PDL": pdl},
            num_warps=_REDUCE.num_warps,
            num_stages=_REDUCE.num_stages,
        )
        for pdl in (False, True)
    ]
    return specs
