"""Triton kernel of rope_write_kv and its launcher: one program a token and a block of heads, two halves of a
head a row.

Arguments are taken as checked by the door. Knows nothing of models or of who owns a page.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from tte_kernels._case import CompileSpec
from tte_kernels._launch import launch_options, pdl_enabled, require_backend

__all__ = ["compile_specs", "launch", "rope_write_kv_kernel"]


@dataclass(frozen=True)
class _Config:
    block_heads: int
    num_warps: int
    num_stages: int = 1  # there is no loop to pipeline


# Keyed by head dim. Each half of a row is D/2 elements, eight bf16 a thread: 16 heads fill the warps exactly.
# Compiled and gated, unmeasured on hardware.
_CONFIGS: dict[int, _Config] = {32: _Config(16, 1), 64: _Config(16, 2), 128: _Config(16, 4)}


@triton.jit
def rope_write_kv_kernel(
    qkv_ptr,
    cos_ptr,
    sin_ptr,
    q_norm_ptr,
    k_norm_ptr,
    slots_ptr,
    q_ptr,
    kv_ptr,
    stride_qkv_t,
    stride_cos_t,
    stride_sin_t,
    stride_kv_2,
    stride_kv_n,
    stride_kv_k,
    stride_kv_p,
    eps,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    HAS_NORM: tl.constexpr,
    BLOCK_H: tl.constexpr,
    PDL: tl.constexpr,
):
    i_t = tl.program_id(0).to(tl.int64)
    o_h = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    o_d = tl.arange(0, D // 2)
    m_h = o_h < NUM_HEADS + 2 * NUM_KV_HEADS
    is_q = o_h < NUM_HEADS
    is_v = o_h >= NUM_HEADS + NUM_KV_HEADS
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()

    p_head = qkv_ptr + i_t * stride_qkv_t + o_h[:, None] * D + o_d[None, :]
    b_low = tl.load(p_head, mask=m_h[:, None], other=0.0).to(tl.float32)
    b_high = tl.load(p_head + D // 2, mask=m_h[:, None], other=0.0).to(tl.float32)
    b_cos = tl.load(cos_ptr + i_t * stride_cos_t + o_d)[None, :]
    b_sin = tl.load(sin_ptr + i_t * stride_sin_t + o_d)[None, :]

    b_k_low = b_low
    b_k_high = b_high
    if HAS_NORM:
        b_sum = tl.sum(b_low * b_low, axis=1) + tl.sum(b_high * b_high, axis=1)
        b_rstd = tl.rsqrt(b_sum / D + eps)[:, None]
        b_wq_low = tl.load(q_norm_ptr + o_d).to(tl.float32)[None, :]
        b_wq_high = tl.load(q_norm_ptr + o_d + D // 2).to(tl.float32)[None, :]
        b_wk_low = tl.load(k_norm_ptr + o_d).to(tl.float32)[None, :]
        b_wk_high = tl.load(k_norm_ptr + o_d + D // 2).to(tl.float32)[None, :]
        b_k_low = b_low * b_rstd * tl.where(is_q[:, None], b_wq_low, b_wk_low)
        b_k_high = b_high * b_rstd * tl.where(is_q[:, None], b_wq_high, b_wk_high)
    # Values pass through untouched, so they are chosen at the end and not rotated by cos = 1, sin = 0.
    b_out_low = tl.where(is_v[:, None], b_low, b_k_low * b_cos - b_k_high * b_sin)
    b_out_high = tl.where(is_v[:, None], b_high, b_k_high * b_cos + b_k_low * b_sin)

    dtype = q_ptr.dtype.element_ty
    p_q = q_ptr + (i_t * NUM_HEADS + o_h)[:, None] * D + o_d[None, :]
    tl.store(p_q, b_out_low.to(dtype), mask=is_q[:, None])
    tl.store(p_q + D // 2, b_out_high.to(dtype), mask=is_q[:, None])

    i_slot = tl.load(slots_ptr + i_t)
    o_kv = o_h - NUM_HEADS  # 0..K-1 keys, K..2K-1 values
    i_k = tl.where(is_v, o_kv - NUM_KV_HEADS, o_kv).to(tl.int64)
    p_row = tl.where(is_v, stride_kv_2, 0).to(tl.int64) + i_k * stride_kv_k
    p_kv = kv_ptr + (i_slot // 16) * stride_kv_n + (i_slot % 16) * stride_kv_p + p_row[:, None] + o_d[None, :]
    m_kv = (m_h & (o_h >= NUM_HEADS))[:, None]
    tl.store(p_kv, b_out_low.to(dtype), mask=m_kv)
    tl.store(p_kv + D // 2, b_out_high.to(dtype), mask=m_kv)


def launch(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    kv_pages: torch.Tensor,
    slots: torch.Tensor,
    *,
    num_heads: int,
    q_norm: torch.Tensor | None = None,
    k_norm: torch.Tensor | None = None,
    eps: float = 1e-6,
) -> torch.Tensor:
    """Unchecked rope_write_kv; see the door for the contract. An empty batch launches nothing."""
    require_backend("rope_write_kv", qkv)
    num_kv_heads, head_dim = kv_pages.shape[2], kv_pages.shape[4]
    q = torch.empty((qkv.shape[0], num_heads, head_dim), dtype=qkv.dtype, device=qkv.device)
    if qkv.shape[0]:
        config = _CONFIGS[head_dim]
        grid = (qkv.shape[0], triton.cdiv(num_heads + 2 * num_kv_heads, config.block_heads))
        rope_write_kv_kernel[grid](
            qkv,
            cos,
            sin,
            qkv if q_norm is None else q_norm,
            qkv if k_norm is None else k_norm,
            slots,
            q,
            kv_pages,
            qkv.stride(0),
            cos.stride(0),
            sin.stride(0),
            *kv_pages.stride()[:4],
            eps,
            NUM_HEADS=num_heads,
            NUM_KV_HEADS=num_kv_heads,
            D=head_dim,
            HAS_NORM=q_norm is not None,
            BLOCK_H=config.block_heads,
            PDL=pdl_enabled(),
            **launch_options(config.num_warps, config.num_stages),
        )
    return q


_SHIPPED = {  # model -> H, K, D, QK-norm
    "tte_tiny": (6, 2, 32, False),
    "head64": (14, 2, 64, False),
    "qwen2vl_2b": (12, 2, 128, False),
    "qwen25vl_3b": (16, 2, 128, False),
    "qwen2vl_7b": (28, 4, 128, False),
    "qwen3vl_2b": (16, 8, 128, True),
    "qwen3vl_4b_8b": (32, 8, 128, True),
}


def compile_specs() -> list[CompileSpec]:
    """Every model's heads in bf16, with and without programmatic dependent launch; four of them in other dtypes."""
    pointers = ("qkv_ptr", "q_norm_ptr", "k_norm_ptr", "q_ptr", "kv_ptr")
    strides = tuple(name for name in rope_write_kv_kernel.arg_names if name.startswith("stride_"))
    signature = {
        **dict.fromkeys(("cos_ptr", "sin_ptr"), "*fp32"),
        "slots_ptr": "*i64",
        **dict.fromkeys(strides, "i32"),
        "stride_kv_2": "i64",  # a launch widens it by itself where one layer's keys pass 2^31 elements
        "eps": "fp32",
    }
    return [
        CompileSpec(
            name=f"rope_write_kv_kernel/{model}{'' if dtype == 'bf16' else f'-{dtype}'}{'-pdl' if pdl else ''}",
            fn=rope_write_kv_kernel,
            signature=dict.fromkeys(pointers, f"*{dtype}") | signature,
            constexprs={
                "NUM_HEADS": heads,
                "NUM_KV_HEADS": kv_heads,
                "D": dim,
                "HAS_NORM": has_norm,
                "BLOCK_H": _CONFIGS[dim].block_heads,
                "PDL": pdl,
            },
            num_warps=_CONFIGS[dim].num_warps,
            num_stages=_CONFIGS[dim].num_stages,
            streamed=True,
            aligned=strides,
            max_registers=128,
        )
        for model, (heads, kv_heads, dim, has_norm) in _SHIPPED.items()
        for dtype, pdl in (("bf16", False), ("bf16", True), ("fp16", False), ("fp32", False))
        if dtype == "bf16" or model in ("tte_tiny", "head64", "qwen2vl_7b", "qwen3vl_4b_8b")
    ]
