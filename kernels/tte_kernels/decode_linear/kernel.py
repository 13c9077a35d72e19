"""Launcher of decode_linear and its table of configurations; the Triton code stands in _kernels.py.

A configuration may change with the number of rows and with the weight, because it decides who computes an
element and what is in flight, never the order of its sums: SLICES and the width of a slice are constants of
the format. Arguments are taken as checked by the door. Knows nothing of models.
"""

from __future__ import annotations

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
# ptxas would rather spill what lives outside the loop than use so many, to fit one more program on an SM; told the
# bound, it does not (Triton 3.9: 2 to 4 registers). No tile has more than 8 warps.
MAX_REGISTERS = 255
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
        **launch_options(config.num_warps, config.num_stages, maxnreg=MAX_REGISTERS),
    )
    return y


def compile_specs() -> list[CompileSpec]:
    """Every format and tile with each of what layers make of it, in every dtype, and in bf16 with PDL.

    Models whose width no tile of k divides are small, as tte-tiny is, and w4a16 has no code of its own for them.
    """
    tiles = [(*key, config) for key, config in _CONFIGS.items()]
    tiles += [(format, 16, config) for format, config in _NARROW_CONFIG.items()]
    ways = [("bf16", True, False), ("bf16", False, False), ("bf16", True, True), ("bf16", False, True)]
    ways += [("fp16", True, False), ("fp16", False, False)]
    specs = []
    for format, rows, config in tiles:
        for dtype, even, pdl in ways:
            if even or format != "w4a16":
                specs += _kinds(format, rows, config, even, dtype=dtype, pdl=pdl)
    for format, rows in _CONFIGS:
        specs += _kinds(format, rows, _CONFIG_FP32, True, dtype="fp32")
    return specs


def _kinds(format: str, rows: int, config: _Config, even: bool, **how: Any) -> list[CompileSpec]:
    """The projections of a layer that have this tile: Q, K and V with a bias and without, out and down, gate and up."""
    narrow = config is _NARROW_CONFIG[format]
    kinds: list[dict[str, bool]] = [] if narrow else [{"norm": True, "swiglu": True}]
    if even or narrow or rows == 32:
        kinds += [{"norm": True, "bias": True}, {"norm": True}, {"residual": True}]
    in_features = SLICES * SLICE_WIDTH if even else 192
    return [_spec(format, rows, config, in_features=in_features, **kind, **how) for kind in kinds]


def _spec(
    format: str,
    rows: int,
    config: _Config,
    *,
    norm: bool = False,
    bias: bool = False,
    residual: bool = False,
    swiglu: bool = False,
    pdl: bool = False,
    dtype: str = "bf16",
    in_features: int = SLICES * SLICE_WIDTH,
) -> CompileSpec:
    has = {"HAS_NORM": norm, "HAS_BIAS": bias, "HAS_RESIDUAL": residual}
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
    flags = {"norm": norm, "bias": bias, "residual": residual, "swiglu": swiglu}
    label = "-".join(name for name, given in flags.items() if given)
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
        maxnreg=MAX_REGISTERS,
    )
