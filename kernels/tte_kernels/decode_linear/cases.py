"""Shapes on which decode_linear is proven and measured. Knows the op's cost, not its kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from tte_kernels._case import BadInput, Case, Inputs, Op, Tolerance
from tte_kernels._inputs import random_tensor, strided_rows
from tte_kernels.decode_linear import PackedWeight, decode_linear, pack
from tte_kernels.decode_linear.reference import decode_linear as reference
from tte_kernels.errors import KernelInputError, KernelTypeError
from tte_kernels.linear.cases import MODELS

__all__ = ["OP"]

# What surrounds the four projections of a layer.
QKV = ("norm", "bias")
OUT = ("residual",)
GATE_UP = ("norm", "swiglu")
DOWN = ("residual",)


def _case(
    name: str,
    rows: int,
    inner: int,
    outer: int,
    format: str = "w16",
    options: Sequence[str] = (),
    strided: bool = False,
    tag: str = "ci",
) -> Case:
    norm, bias, residual, swiglu = (option in options for option in ("norm", "bias", "residual", "swiglu"))
    columns = outer // 2 if swiglu else outer

    def make_inputs(seed: int, device: str, dtype: torch.dtype) -> Inputs:
        make = strided_rows if strided else random_tensor
        # 1/sqrt(I), as in trained models: products then have unit size, which the tolerances are written for.
        weight = make((outer, inner), seed + 1, device, dtype, inner**-0.5)
        return {
            "x": make((rows, inner), seed, device, dtype),
            "packed": pack(weight, format),
            "norm_weight": 1 + 0.1 * random_tensor((inner,), seed + 2, device, dtype) if norm else None,
            "eps": 1e-6,
            "bias": random_tensor((outer,), seed + 3, device, dtype) if bias else None,
            "residual": make((rows, columns), seed + 4, device, dtype) if residual else None,
            "swiglu": swiglu,
        }

    blocks = -(-inner // 256)
    quantised = {
        "w16": 0,
        "w8a16": outer * inner + outer * 4,
        "w4a16": outer * blocks * 128 + outer * blocks * 2 * 3,
    }[format]
    elements = rows * inner + inner * norm + outer * bias + rows * columns * (1 + residual)
    elements += outer * inner if format == "w16" else 0
    # Norm: square, sum, weight an element of x, and its factor an element of the product; SwiGLU: silu and
    # product.
    extra = rows * (inner * 3 * norm + outer * (norm + bias) + columns * (2 * swiglu + residual))
    return Case(
        name=name,
        dims={"S": rows, "I": inner, "O": outer},
        make_inputs=make_inputs,
        bytes_of=lambda dtype: elements * dtype.itemsize + quantised,
        flops=2 * rows * inner * outer + extra,
        tag="model" if tag == "model" else "ci",
    )


def _traffic(inputs: Inputs, outputs: tuple[torch.Tensor, ...]) -> tuple[int, int]:
    x, packed, y = inputs["x"], inputs["packed"], outputs[0]
    norm_weight, bias, residual = inputs["norm_weight"], inputs["bias"], inputs["residual"]
    parts = [part for part in (norm_weight, bias, residual) if part is not None]
    products = x.shape[0] * packed.out_features
    flops = 2 * products * x.shape[1] + products * (bias is not None)
    if norm_weight is not None:
        flops += 3 * x.numel() + products
    flops += y.numel() * (2 * inputs["swiglu"] + (residual is not None))
    return x.nbytes + packed.nbytes + y.nbytes + sum(part.nbytes for part in parts), flops


def _take_rows(inputs: Inputs, keep: Sequence[int]) -> Inputs:
    index = torch.tensor(keep, device=inputs["x"].device)
    residual = inputs["residual"]
    return inputs | {"x": inputs["x"][index], "residual": None if residual is None else residual[index]}


def _opcheck(inputs: Inputs) -> list[tuple[object, tuple[object, ...]]]:
    packed = inputs["packed"]
    rest = [inputs[name] for name in ("norm_weight", "eps", "bias", "residual", "swiglu")]
    parts = (packed.format, packed.data, packed.scale, packed.zero)
    return [(torch.ops.tte.decode_linear.default, (inputs["x"], *parts, *rest))]


def _with_data(inputs: Inputs, data: torch.Tensor) -> Inputs:
    packed: PackedWeight = inputs["packed"]
    return inputs | {"packed": dataclasses.replace(packed, data=data)}


CASES: list[Case] = [
    _case("empty", 0, 64, 48),
    _case("S1-tiny-qkv", 1, 192, 320, options=QKV),
    _case("S1-I192-O256-gate-up", 1, 192, 256, options=GATE_UP),
    _case("S16-tiny-down", 16, 512, 192, options=DOWN),
    _case("S17-I300-O70-all-strided", 17, 300, 70, options=("norm", "bias", "swiglu", "residual"), strided=True),
    _case("S63-I64-O24-bias-residual", 63, 64, 24, options=("bias", "residual")),
    _case("S64-I256-O33-plain", 64, 256, 33),
    _case("S3-I1000-O40-norm", 3, 1000, 40, options=("norm",)),
    _case("S1-w8a16-I1536-O16", 1, 1536, 16, "w8a16", QKV),
    _case("S33-w8a16-I100-O66-swiglu", 33, 100, 66, "w8a16", GATE_UP),
    _case("S1-w4a16-I1536-O16", 1, 1536, 16, "w4a16", QKV),
    _case("S33-w4a16-I192-O34-swiglu", 33, 192, 34, "w4a16", GATE_UP),
    _case("S5-w4a16-I700-O20", 5, 700, 20, "w4a16", ("bias", "residual")),
    *(
        _case(f"{model}-{inner}x{outer}-{format}-S{rows}", rows, inner, outer, format, options, tag="model")
        for model, shapes in MODELS.items()
        for (inner, outer), options in zip(shapes, (QKV, OUT, GATE_UP, DOWN), strict=True)
        for format, rows in (*(("w16", rows) for rows in (1, 4, 16, 64)), ("w8a16", 1), ("w4a16", 1))
    ),
]

OP = Op(
    name="decode_linear",
    fn=decode_linear,
    reference=reference,
    cases=CASES,
    # Sums of unit size, and products of two with SwiGLU (up to about 10). fp32 differs by the order of the
    # sum; fp16 and bf16 round x * norm_weight (2^-11 and 2^-8 of each term, averaging out over the sum) and
    # the result once. Both sides read the same packed weight, so what quantisation loses is no part of this.
    tolerance={
        torch.float32: Tolerance(atol=2e-5, rtol=1e-5),
        torch.float16: Tolerance(atol=2e-3, rtol=2e-3),
        torch.bfloat16: Tolerance(atol=1.6e-2, rtol=1.6e-2),
    },
    formula="y = rms_norm(x) @ weight.T + bias; silu(gate) * up; + residual; weight in 16, 8 or 4 bits",
    used_by="every projection of the decode path",
    traffic=_traffic,
    num_rows=lambda inputs: int(inputs["x"].shape[0]),
    take_rows=_take_rows,
    opcheck=_opcheck,
    bad_inputs=(
        BadInput("dtype-int", lambda i: i | {"x": i["x"].int()}, KernelTypeError, "x must have dtype"),
        BadInput(
            "dtype-weight",
            lambda i: _with_data(i, i["packed"].data.double()),
            KernelTypeError,
            "packed.data must have dtype",
        ),
        BadInput("shape-rank", lambda i: i | {"x": i["x"][None]}, KernelInputError, r"x must have shape \[S, I\]"),
        BadInput(
            "shape-inner",
            lambda i: i | {"x": i["x"][:, 1:]},
            KernelInputError,
            "I of x must be that of the packed",
        ),
        BadInput(
            "rows",
            lambda i: i | {"x": i["x"][:1].expand(65, -1)},
            KernelInputError,
            "S of x must be at most 64",
        ),
        BadInput("shape-bias", lambda i: i | {"bias": i["x"][0, :1]}, KernelInputError, "bias must have shape"),
        BadInput(
            "shape-norm",
            lambda i: i | {"norm_weight": i["x"][0, :1]},
            KernelInputError,
            "norm_weight must have shape",
        ),
        BadInput("stride", lambda i: i | {"x": i["x"].T.contiguous().T}, KernelInputError, "x must be contiguous"),
        BadInput(
            "device",
            lambda i: _with_data(i, i["packed"].data.to("meta")),
            KernelInputError,
            "packed.data must be on",
        ),
        BadInput("eps", lambda i: i | {"eps": 0.0}, KernelInputError, "eps must be > 0 and finite, got 0.0"),
        BadInput(
            "type",
            lambda i: i | {"packed": i["packed"].data},
            KernelTypeError,
            "packed must be a PackedWeight",
        ),
    ),
)
