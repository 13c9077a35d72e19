"""Launcher of decode_linear and its table of configurations; the Triton code stands in _kernels.py.

A configuration may change with the number of rows and with the weight, because it decides who computes an
element and what is in flight, never the order of its sums: SLICES and the width of a slice are constants of
the format. Arguments are taken as checked by the door. Knows nothing of models.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
import triton

from tte_kernels._case import CompileSpec
from tte_kernels._launch import launch_options, pdl_enabled, require_backend
from tte_kernels.decode_linear._kernels import decode_linear_4bit_kernel, decode_linear_kernel
from tte_kernels.decode_linear.pack import PackedWeight

__all__ = ["choose_config", "compile_specs", "launch"]

# Part of a row's bits: changing either changes results by rounding.
SLICES = 4
SLICE_WIDTH = 64  # elements of k a slice (bytes of two nibbles in w4a16)
SLICE_WIDTH_FP32 = 16  # fp32 runs without tensor cores (exact products): the path of parity checks, not of speed


@dataclass(frozen=True)
class _Config:
    block_o: int  # rows of the weight a program; with SwiGLU half as many columns, two rows each
    num_warps: int
    num_stages: int


# Keyed by (format, row tile). Four warps a row tile of 16 hold a slice each; more rows need more registers,
# so more warps. Stages keep 32 to 64 KiB of weights in flight an SM. Compiled and gated, unmeasured on
# hardware.
_CONFIGS: dict[tuple[str, int], _Config] = {
    ("w16", 16): _Config(32, 4, 4),
    ("w16", 32): _Config(32, 8, 4),
    ("w8a16", 16): _Config(32, 4, 6),
    ("w8a16", 32): _Config(32, 8, 5),
    ("w4a16", 16): _Config(32, 8, 4),
}
# Columns below which 32 weight rows a program would leave SMs idle (132 on an H200): take 16, with more in
# flight. SwiGLU has 16 columns a program anyway.
_NARROW = 32 * 132
_NARROW_CONFIG = {"w16": _Config(16, 4, 6), "w8a16": _Config(16, 8, 6), "w4a16": _Config(16, 4, 4)}
_CONFIG_FP32 = _Config(16, 8, 1)
# More rows than that leave no registers without spills in all supported Triton versions. Further row tiles are
# programs of their own, launched beside the first, so that they find the weight in L2.
_MAX_ROW_TILE = {"w16": 32, "w8a16": 32, "w4a16": 16}


def choose_config(format: str, num_rows: int, columns: int, dtype: torch.dtype, swiglu: bool) -> tuple[int, _Config]:
    """(row tile, configuration) for these sizes."""
    rows = min(max(16, triton.next_power_of_2(num_rows)), _MAX_ROW_TILE[format])
    if dtype == torch.float32:
        return rows, _CONFIG_FP32
    if rows == 16 and columns < _NARROW and not swiglu:
        return rows, _NARROW_CONFIG[format]
    return rows, _CONFIGS[format, rows]


def _constexprs(format: str, rows: int, config: _Config, in_features: int, swiglu: bool, fp32: bool) -> dict[str, Any]:
    width = SLICE_WIDTH_FP32 if fp32 else SLICE_WIDTH
    block_o = max(16, config.block_o // 2) if swiglu else config.block_o
    values: dict[str, Any] = {"SLICES": SLICES, "ROWS": rows, "BLOCK_O": block_o, "SWIGLU": swiglu}
    if format == "w4a16":
        return values | {"BLOCK_B": width}
    even = in_features % (SLICES * width) == 0
    return values | {"BLOCK_I": width, "INT8": format == "w8a16", "EVEN_I": even}


def launch(
    x: torch.Tensor,
    packed: PackedWeight,
    *,
    norm_weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    swiglu: bool = False,
) -> torch.Tensor:
    """Unchecked decode_linear; see the door for the contract. An empty result launches nothing."""
    require_backend("decode_linear", x)
    num_rows, in_features = x.shape
    columns = packed.out_features // 2 if swiglu else packed.out_features
    y = torch.empty((num_rows, columns), dtype=x.dtype, device=x.device)
    if y.numel() == 0:
        return y
    rows, config = choose_config(packed.format, num_rows, columns, x.dtype, swiglu)
    constexprs = _constexprs(packed.format, rows, config, in_features, swiglu, x.dtype == torch.float32)
    kernel = decode_linear_4bit_kernel if packed.format == "w4a16" else decode_linear_kernel
    kernel[(triton.cdiv(num_rows, rows), triton.cdiv(columns, constexprs["BLOCK_O"]))](
        x,
        packed.data,
        packed.scale,
        packed.zero,
        norm_weight,
        bias,
        residual,
        y,
        num_rows,
        columns,
        in_features,
        eps,
        x.stride(0),
        packed.data.stride(0),
        0 if residual is None else residual.stride(0),
        HAS_NORM=norm_weight is not None,
        HAS_BIAS=bias is not None,
        HAS_RESIDUAL=residual is not None,
        PDL=pdl_enabled(),
        **constexprs,
        **launch_options(config.num_warps, config.num_stages),
    )
    return y


def compile_specs() -> list[CompileSpec]:
    """Every format, row tile and width, as the four projections of a layer use them; and a width that no tile of k
    divides, which tte-tiny has."""
    specs = []
    for (format, rows), config in _CONFIGS.items():
        specs.append(_spec(format, rows, config, swiglu=True))  # norm, gate and up
        specs.append(_spec(format, rows, config, swiglu=False))  # bias and residual
    for format, config in _NARROW_CONFIG.items():
        specs.append(_spec(format, 16, config, norm=True, swiglu=False))  # norm, QKV with bias
        specs.append(_spec(format, 16, config, swiglu=False, pdl=True))
        specs.append(_spec(format, 16, _CONFIGS[format, 16], swiglu=True, pdl=True))
    specs.append(_spec("w16", 16, _NARROW_CONFIG["w16"], norm=True, swiglu=False, in_features=192))
    specs.append(_spec("w16", 16, _CONFIGS["w16", 16], swiglu=True, in_features=192))
    for format, rows in _CONFIGS:
        specs.append(_spec(format, rows, _CONFIG_FP32, swiglu=True, dtype="fp32"))
    # Triton 3.9 stores 2 to 4 registers in three of the further ones, 3.6 in none: no tile is worth changing for that.
    return specs + [dataclasses.replace(spec, gated_only=True, max_spills=4) for spec in _further_specs()]


def _further_specs() -> list[CompileSpec]:
    """What other models and switches make of the same tiles: norms without SwiGLU or bias, PDL, fp16, fp32."""
    specs = [_spec("w16", 16, _NARROW_CONFIG["w16"], norm=True, bias=False, swiglu=False)]  # Qwen3's QKV
    for (format, rows), config in _CONFIGS.items():
        specs.append(_spec(format, rows, config, norm=True, swiglu=False))
        specs.append(_spec(format, rows, config, norm=True, bias=False, swiglu=False))
        specs.append(_spec(format, rows, config, norm=True, swiglu=False, pdl=True))
        specs.append(_spec(format, rows, config, swiglu=False, pdl=True))
        if format != "w4a16":  # which has no code of its own for whole tiles of k
            specs.append(_spec(format, rows, config, norm=True, swiglu=False, in_features=192))
        if rows == 32:
            specs.append(_spec(format, rows, config, swiglu=True, pdl=True))
            specs.append(_spec(format, rows, config, swiglu=True, in_features=192))
        for dtype, same in (("fp16", config), ("fp32", _CONFIG_FP32)):
            specs.append(_spec(format, rows, same, norm=True, swiglu=False, dtype=dtype))
            specs.append(_spec(format, rows, same, swiglu=False, dtype=dtype))
        specs.append(_spec(format, rows, config, swiglu=True, dtype="fp16"))
    return specs


def _spec(
    format: str,
    rows: int,
    config: _Config,
    *,
    swiglu: bool,
    norm: bool = False,
    bias: bool = True,
    pdl: bool = False,
    dtype: str = "bf16",
    in_features: int = SLICES * SLICE_WIDTH,
) -> CompileSpec:
    has = {"HAS_NORM": norm or swiglu, "HAS_BIAS": bias and not swiglu, "HAS_RESIDUAL": not swiglu and not norm}
    pointers = {
        "x_ptr": f"*{dtype}",
        "data_ptr": f"*{dtype}" if format == "w16" else "*i8",
        "y_ptr": f"*{dtype}",
    }
    absent: list[str] = []
    for name, flag in (("norm_ptr", "HAS_NORM"), ("bias_ptr", "HAS_BIAS"), ("residual_ptr", "HAS_RESIDUAL")):
        if has[flag]:
            pointers[name] = f"*{dtype}"
        else:
            absent.append(name)
    quantised = {
        "w16": {},
        "w8a16": {"scale_ptr": "*fp32"},
        "w4a16": {"scale_ptr": "*fp16", "zero_ptr": "*i8"},
    }[format]
    absent += [name for name in ("scale_ptr", "zero_ptr") if name not in quantised]
    integers = ("num_rows", "columns", "in_features", "stride_xs", "stride_wo", "stride_rs")
    constexprs = _constexprs(format, rows, config, in_features, swiglu, dtype == "fp32")
    uneven = "" if constexprs.get("EVEN_I", True) else "-uneven"
    label = "norm-swiglu" if swiglu else "bias-residual" if not norm else "norm-bias" if bias else "norm"
    fn = decode_linear_4bit_kernel if format == "w4a16" else decode_linear_kernel
    weight = f"{format}-{dtype}"
    return CompileSpec(
        name=f"{fn.__name__}/{weight}-S{rows}-O{constexprs['BLOCK_O']}-{label}{uneven}{'-pdl' if pdl else ''}",
        fn=fn,
        signature=pointers | quantised | {name: "i32" for name in integers} | {"eps": "fp32"},
        constexprs=constexprs | has | {"PDL": pdl} | {name: None for name in absent},
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        # Beside activations in fp32 an 8-bit weight is the smaller part of what a step loads: the share of wide loads
        # would judge the activations.
        streamed=(format, dtype) != ("w8a16", "fp32"),
        aligned=integers[1:],
        max_registers=128 if config.num_warps == 16 else 255,
    )
