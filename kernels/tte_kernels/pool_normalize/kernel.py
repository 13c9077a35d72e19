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
    out_ptr,
    stride_ht,
    C,
    E,
    eps,
    ROWS: tl.constexpr,
    MEAN: tl.constexpr,
    HAS_NORM: tl.constexpr,
    NORMALIZE: tl.constexpr,
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

    m_e = o_c < E
    if NORMALIZE:
        b_kept = tl.where(m_e, b_y, 0.0)
        # Correctly rounded root and quotient: the vector is kept for years, and one division costs nothing
        # here.
        b_length = tl.maximum(tl.sqrt_rn(tl.sum(b_kept * b_kept, axis=0)), 1e-12)
        b_y = tl.div_rn(b_y, tl.broadcast_to(b_length, [BLOCK_C]))
    tl.store(out_ptr + i_s * E + o_c, b_y, mask=m_e)


def launch(
    hidden: torch.Tensor,
    cu_seqlens: torch.Tensor | None = None,
    *,
    rows: torch.Tensor | None = None,
    norm_weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    dim: int | None = None,
    mode: str = "last",
    normalize: bool = True,
) -> torch.Tensor:
    """Unchecked pool_normalize; see the door for the contract. No vectors launch nothing."""
    require_backend("pool_normalize", hidden)
    index = cu_seqlens if rows is None else rows
    assert index is not None
    num_vectors = index.shape[0] - (rows is None)
    width = hidden.shape[1]
    kept = width if dim is None else dim
    out = torch.empty((num_vectors, kept), dtype=torch.float32, device=hidden.device)
    if num_vectors:
        block_c = max(256, triton.next_power_of_2(width))
        config = _CONFIGS[block_c]
        pool_normalize_kernel[(num_vectors,)](
            hidden,
            index,
            hidden if norm_weight is None else norm_weight,
            out,
            hidden.stride(0),
            width,
            kept,
            eps,
            ROWS=rows is not None,
            MEAN=mode == "mean",
            HAS_NORM=norm_weight is not None,
            NORMALIZE=normalize,
            BLOCK_C=block_c,
            PDL=pdl_enabled(),
            **launch_options(config.num_warps, config.num_stages),
        )
    return out


def compile_specs() -> list[CompileSpec]:
    """Every row width of the table, for rows, last tokens and means."""
    variants = {  # ROWS, MEAN, HAS_NORM, NORMALIZE, PDL
        "rows": (True, False, True, True, False),
        "rows-pdl": (True, False, True, True, True),
        "last": (False, False, True, True, False),
        "mean": (False, True, True, True, False),
        "last-plain": (False, False, False, False, False),
    }
    return [
        CompileSpec(
            name=f"pool_normalize_kernel/C{block_c}-{name}",
            fn=pool_normalize_kernel,
            signature={
                "hidden_ptr": "*bf16",
                "index_ptr": "*i64" if rows else "*i32",
                "weight_ptr": "*bf16",
                "out_ptr": "*fp32",
                "stride_ht": "i32",
                "C": "i32",
                "E": "i32",
                "eps": "fp32",
            },
            constexprs={
                "ROWS": rows,
                "MEAN": mean,
                "HAS_NORM": has_norm,
                "NORMALIZE": normalize,
                "BLOCK_C": block_c,
                "PDL": pdl,
            },
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            streamed=True,
            aligned=("stride_ht", "C", "E"),
            max_registers=128,
            loads_before_wait=max(1, block_c // (config.num_warps * 32 * 8)),  # the weight's
        )
        for block_c, config in _CONFIGS.items()
        for name, (rows, mean, has_norm, normalize, pdl) in variants.items()
    ]
