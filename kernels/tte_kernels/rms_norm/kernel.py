"""Triton kernel of rms_norm and its launcher: one program a row, the whole row in registers.

Arguments are taken as checked by the door. Knows nothing of models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from tte_kernels._case import CompileSpec
from tte_kernels._launch import launch_options, pdl_enabled, require_backend

__all__ = ["compile_specs", "launch", "rms_norm_kernel"]


@dataclass(frozen=True)
class _Config:
    num_warps: int
    num_stages: int = 1  # there is no loop to pipeline


# Keyed by BLOCK_C. Eight bf16 elements a thread make one 128-bit load an operand up to 4096, sixteen above.
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
def rms_norm_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    y_ptr,
    residual_out_ptr,
    stride_xt,
    stride_rt,
    C,
    eps,
    HAS_RESIDUAL: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PDL: tl.constexpr,
):
    i_t = tl.program_id(0).to(tl.int64)
    o_c = tl.arange(0, BLOCK_C)
    m_c = o_c < C
    # The weight was there before the previous kernel began, so its load may stand above the wait.
    b_w = tl.load(weight_ptr + o_c, mask=m_c, other=0.0).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    dtype = y_ptr.dtype.element_ty
    b_s = tl.load(x_ptr + i_t * stride_xt + o_c, mask=m_c, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        b_s += tl.load(residual_ptr + i_t * stride_rt + o_c, mask=m_c, other=0.0).to(tl.float32)
        b_s = b_s.to(dtype).to(tl.float32)
        tl.store(residual_out_ptr + i_t * C + o_c, b_s.to(dtype), mask=m_c)
    b_rstd = tl.rsqrt(tl.sum(b_s * b_s, axis=0) / C + eps)
    b_normed = (b_s * b_rstd).to(dtype).to(tl.float32)
    tl.store(y_ptr + i_t * C + o_c, (b_normed * b_w).to(dtype), mask=m_c)


def launch(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Unchecked rms_norm; see the door for the contract. An empty batch launches nothing."""
    require_backend("rms_norm", x)
    num_tokens, dim = x.shape
    y = torch.empty((num_tokens, dim), dtype=x.dtype, device=x.device)
    residual_out = x if residual is None else torch.empty_like(y)
    if num_tokens:
        block_c = max(256, triton.next_power_of_2(dim))
        config = _CONFIGS[block_c]
        rms_norm_kernel[(num_tokens,)](
            x,
            x if residual is None else residual,
            weight,
            y,
            residual_out,
            x.stride(0),
            0 if residual is None else residual.stride(0),
            dim,
            eps,
            HAS_RESIDUAL=residual is not None,
            BLOCK_C=block_c,
            PDL=pdl_enabled(),
            **launch_options(config.num_warps, config.num_stages),
        )
    return y, residual_out


def compile_specs() -> list[CompileSpec]:
    """Every row width of the table, in every dtype, with and without residual."""
    return [
        CompileSpec(
            name=f"rms_norm_kernel/{dtype}-C{block_c}{'-residual' if has_residual else ''}{'-pdl' if pdl else ''}",
            fn=rms_norm_kernel,
            signature={
                **dict.fromkeys(("x_ptr", "residual_ptr", "weight_ptr", "y_ptr", "residual_out_ptr"), f"*{dtype}"),
                "stride_xt": "i32",
                "stride_rt": "i32",
                "C": "i32",
                "eps": "fp32",
            },
            constexprs={"HAS_RESIDUAL": has_residual, "BLOCK_C": block_c, "PDL": pdl},
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            streamed=True,
            aligned=("stride_xt", "stride_rt", "C"),
            max_registers=128,
            loads_before_wait=max(1, block_c // (config.num_warps * 32 * 8)),  # the weight's
        )
        for block_c, config in _CONFIGS.items()
        for has_residual in (False, True)
        for dtype, pdl in (("bf16", False), ("bf16", True), ("fp16", False), ("fp32", False))
    ]
