"""Triton kernel of pool_normalize and its launcher: one program a vector, one row in registers at a time.

Arguments are taken as checked by the door. Averaging walks a sequence's rows one after the other in one
program: the order is fixed, and a long sequence alone leaves most of a GPU idle. Knows nothing of models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from tte_kernels._case import CompileSpec
from tte_kernels._launch import launch_options, pdl_enabled, require_backend

__all__ = ["compile_specs", "launch", "pool_normalize_kernel"]


@dataclass(frozen=True)
class _Config:
    num_warps: int
    # Software pipelining would stage masked rows of the mean through shared memory; the loads of one row are
    # already as many as a program can have in flight.
    num_stages: int = 1


# Keyed by BLOCK_C. Eight bf16 elements a thread make one 128-bit load up to 4096, sixteen and more above.
# Compiled and gated, unmeasured on hardware.
_CONFIGS: dict[int, _Config] = {
    256: _Config(1),
    512: _Config(2),
    1024: _Config(4),
    2048: _Config(8),
    4096: _Config(16),
    8192: _Config(16),
    16384: _Config(16),
}


@triton.jit
def pool_normalize_kernel(
    hidden_ptr,
    index_ptr,
    weight_ptr,
    dims_ptr,
    flags_ptr,
    out_ptr,
    stride_ht,
    C,
    E,
    eps,
    ROWS: tl.constexpr,
    MEAN: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_DIMS: tl.constexpr,
    NORMALIZE: tl.constexpr,
    HAS_FLAGS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PDL: tl.constexpr,
):
    i_s = tl.program_id(0).to(tl.int64)
    o_c = tl.arange(0, BLOCK_C)
    m_c = o_c < C
    b_w = tl.full([BLOCK_C], 1.0, tl.float32)
    if HAS_NORM:
        # The weight was there before the previous kernel began, so its load may stand above the wait.
        b_w = tl.load(weight_ptr + o_c, mask=m_c, other=0.0).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()

    if ROWS:
        i_first = tl.load(index_ptr + i_s)
        i_end = tl.where(i_first < 0, i_first, i_first + 1)
    else:
        i_first = tl.load(index_ptr + i_s).to(tl.int64)
        i_end = tl.load(index_ptr + i_s + 1).to(tl.int64)
        if not MEAN:
            i_first = tl.maximum(i_first, i_end - 1)  # an empty sequence stays empty: first == end

    if MEAN:
        b_sum = tl.zeros([BLOCK_C], tl.float32)
        for i_t in range(i_first, i_end):
            b_h = tl.load(hidden_ptr + i_t * stride_ht + o_c, mask=m_c, other=0.0).to(tl.float32)
            if HAS_NORM:
                b_h = b_h * tl.rsqrt(tl.sum(b_h * b_h, axis=0) / C + eps)
            b_sum += b_h
        b_y = b_sum * b_w / tl.maximum(i_end - i_first, 1).to(tl.float32)
    else:
        m_row = o_c < tl.where(i_first < i_end, C, 0)  # nothing to read: zeros
        b_h = tl.load(hidden_ptr + i_first * stride_ht + o_c, mask=m_row, other=0.0).to(tl.float32)
        if HAS_NORM:
            b_h = b_h * tl.rsqrt(tl.sum(b_h * b_h, axis=0) / C + eps)
        b_y = b_h * b_w

    dim = E
    if HAS_DIMS:
        dim = tl.minimum(tl.load(dims_ptr + i_s), E)
    b_y = tl.where(o_c < dim, b_y, 0.0)
    if NORMALIZE:
        # Correctly rounded root and quotient: the vector is kept for years, and one division costs nothing
        # here.
        b_length = tl.maximum(tl.sqrt_rn(tl.sum(b_y * b_y, axis=0)), 1e-12)
        if HAS_FLAGS:
            b_length = tl.where(tl.load(flags_ptr + i_s), b_length, 1.0)
        b_y = tl.div_rn(b_y, tl.broadcast_to(b_length, [BLOCK_C]))
    tl.store(out_ptr + i_s * E + o_c, b_y, mask=o_c < E)


def launch(
    hidden: torch.Tensor,
    cu_seqlens: torch.Tensor | None = None,
    *,
    rows: torch.Tensor | None = None,
    norm_weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    dim: int | None = None,
    dims: torch.Tensor | None = None,
    mode: str = "last",
    normalize: bool | torch.Tensor = True,
) -> torch.Tensor:
    """Unchecked pool_normalize; see the door for the contract. No vectors launch nothing."""
    require_backend("pool_normalize", hidden)
    index = cu_seqlens if rows is None else rows
    assert index is not None
    num_vectors = index.shape[0] - (rows is None)
    width = hidden.shape[1]
    kept = width if dim is None else dim
    flags = normalize if isinstance(normalize, torch.Tensor) else None
    out = torch.empty((num_vectors, kept), dtype=torch.float32, device=hidden.device)
    if num_vectors:
        block_c = max(256, triton.next_power_of_2(width))
        config = _CONFIGS[block_c]
        pool_normalize_kernel[(num_vectors,)](
            hidden,
            index,
            norm_weight,
            dims,
            flags,
            out,
            hidden.stride(0),
            width,
            kept,
            eps,
            ROWS=rows is not None,
            MEAN=mode == "mean",
            HAS_NORM=norm_weight is not None,
            HAS_DIMS=dims is not None,
            NORMALIZE=normalize is not False,
            HAS_FLAGS=flags is not None,
            BLOCK_C=block_c,
            PDL=pdl_enabled(),
            **launch_options(config.num_warps, config.num_stages),
        )
    return out


def compile_specs() -> list[CompileSpec]:
    """Every row width of the table: for rows and last tokens as an engine reads them out, and for means."""
    variants = {  # ROWS, MEAN, HAS_NORM, NORMALIZE, dims and flags a vector as an engine has them, PDL
        "rows": (True, False, True, True, True, False),
        "rows-pdl": (True, False, True, True, True, True),
        "last": (False, False, True, True, True, False),
        "last-pdl": (False, False, True, True, True, True),
        "mean": (False, True, True, True, True, False),
        "mean-pdl": (False, True, True, True, True, True),
        "last-plain": (False, False, False, False, False, False),
    }
    further = [(dtype, name) for dtype in ("fp16", "fp32") for name in ("rows", "last", "mean")]
    return [
        _spec(f"{dtype}-C{block_c}-{name}", dtype, block_c, config, *variants[name])
        for block_c, config in _CONFIGS.items()
        for dtype, name in [("bf16", name) for name in variants] + further
    ]


def _spec(
    name: str,
    dtype: str,
    block_c: int,
    config: _Config,
    rows: bool,
    mean: bool,
    has_norm: bool,
    normalize: bool,
    each: bool,
    pdl: bool,
) -> CompileSpec:
    pointers = {"hidden_ptr": f"*{dtype}", "index_ptr": "*i64" if rows else "*i32", "out_ptr": "*fp32"}
    pointers |= {"weight_ptr": f"*{dtype}"} if has_norm else {}
    pointers |= {"dims_ptr": "*i32", "flags_ptr": "*u1"} if each else {}
    absent = [name for name in ("weight_ptr", "dims_ptr", "flags_ptr") if name not in pointers]
    constexprs = {"ROWS": rows, "MEAN": mean, "HAS_NORM": has_norm, "BLOCK_C": block_c, "PDL": pdl}
    constexprs |= {"HAS_DIMS": each, "NORMALIZE": normalize, "HAS_FLAGS": each} | dict.fromkeys(absent)
    return CompileSpec(
        name=f"pool_normalize_kernel/{name}",
        fn=pool_normalize_kernel,
        signature=pointers | dict.fromkeys(("stride_ht", "C", "E"), "i32") | {"eps": "fp32"},
        constexprs=constexprs,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        streamed=True,
        aligned=("stride_ht", "C", "E"),
        max_registers=128,
        loads_before_wait=max(1, block_c // (config.num_warps * 32 * 8)),  # the weight's
    )
