"""Shapes on which rms_norm is proven and measured. Knows the op's cost, not its kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tte_kernels._case import BadInput, Case, Inputs, Op, Tolerance
from tte_kernels._inputs import random_tensor, strided_rows
from tte_kernels.errors import KernelInputError, KernelTypeError
from tte_kernels.rms_norm import rms_norm
from tte_kernels.rms_norm.reference import rms_norm as reference

__all__ = ["OP"]

EPS = 1e-6


def _case(name: str, tokens: int, dim: int, residual: bool = False, strided: bool = False, tag: str = "ci") -> Case:
    def make_inputs(seed: int, device: str, dtype: torch.dtype) -> Inputs:
        make = strided_rows if strided else random_tensor
        return {
            "x": make((tokens, dim), seed, device, dtype),
            "weight": 1 + 0.1 * random_tensor((dim,), seed + 1, device, dtype),
            "eps": EPS,
            "residual": make((tokens, dim), seed + 2, device, dtype) if residual else None,
        }

    rows = 4 if residual else 2  # read x (and the residual), write y (and s)
    return Case(
        name=name,
        dims={"T": tokens, "C": dim},
        make_inputs=make_inputs,
        bytes_of=lambda dtype: (rows * tokens * dim + dim) * dtype.itemsize,
        flops=tokens * dim * (5 if residual else 4),
        tag="model" if tag == "model" else "ci",
    )


def _traffic(inputs: Inputs, outputs: tuple[torch.Tensor, ...]) -> tuple[int, int]:
    x, weight, residual = inputs["x"], inputs["weight"], inputs["residual"]
    moved = x.nbytes + weight.nbytes + outputs[0].nbytes
    if residual is not None:
        moved += residual.nbytes + outputs[1].nbytes
    # square, sum, scale and weight are one each; the residual add one more.
    return moved, x.numel() * (4 + (residual is not None))


def _take_rows(inputs: Inputs, keep: Sequence[int]) -> Inputs:
    residual = inputs["residual"]
    index = torch.tensor(keep, device=inputs["x"].device)
    return inputs | {"x": inputs["x"][index], "residual": None if residual is None else residual[index]}


CASES: list[Case] = [
    _case("empty", 0, 96),
    _case("T1-C128", 1, 128),
    _case("T1-C192-residual", 1, 192, residual=True),
    _case("T63-C96", 63, 96),
    _case("T127-C200-residual", 127, 200, residual=True),
    _case("T129-C100-strided", 129, 100, residual=True, strided=True),
    _case("T3-C1536", 3, 1536, residual=True),
    _case("T1000-C32", 1000, 32, residual=True),
    _case("T2-C5000-strided", 2, 5000, strided=True),
    *(
        _case(f"{model}-T{tokens}", tokens, dim, residual=True, tag="model")
        for model, dim in (
            ("tte_tiny", 192),
            ("qwen2vl_2b", 1536),
            ("qwen25vl_3b_qwen3vl_2b", 2048),
            ("qwen3vl_4b", 2560),
            ("qwen2vl_7b", 3584),
            ("qwen3vl_8b", 4096),
        )
        for tokens in (1, 64, 1000, 8192)
    ),
]

OP = Op(
    name="rms_norm",
    fn=rms_norm,
    reference=reference,
    cases=CASES,
    # fp32 differs by the order of the sum; fp16 and bf16 by at most two units in the last place, because each
    # of the two roundings after the sum may fall the other way.
    tolerance={
        torch.float32: Tolerance(atol=1e-5, rtol=1e-5),
        torch.float16: Tolerance(atol=1e-3, rtol=2e-3),
        torch.bfloat16: Tolerance(atol=1e-3, rtol=1.6e-2),
    },
    formula="s = x + residual; y = s * rsqrt(mean(s^2) + eps) * weight",
    used_by="every decoder layer, twice",
    traffic=_traffic,
    num_rows=lambda inputs: int(inputs["x"].shape[0]),
    take_rows=_take_rows,
    opcheck=lambda inputs: [
        (torch.ops.tte.rms_norm.default, (inputs["x"], inputs["weight"], EPS))
        if inputs["residual"] is None
        else (torch.ops.tte.add_rms_norm.default, (inputs["x"], inputs["weight"], EPS, inputs["residual"]))
    ],
    bad_inputs=(
        BadInput("dtype-int", lambda i: i | {"x": i["x"].int()}, KernelTypeError, "x must have dtype"),
        BadInput(
            "dtype-weight",
            lambda i: i | {"weight": i["weight"].double()},
            KernelTypeError,
            "weight must have dtype",
        ),
        BadInput("shape-rank", lambda i: i | {"x": i["x"][None]}, KernelInputError, r"x must have shape \[T, C\]"),
        BadInput(
            "shape-weight",
            lambda i: i | {"weight": i["weight"][1:]},
            KernelInputError,
            "weight must have shape",
        ),
        BadInput("stride", lambda i: i | {"x": i["x"].T.contiguous().T}, KernelInputError, "contiguous in its last"),
        BadInput("device", lambda i: i | {"weight": i["weight"].to("meta")}, KernelInputError, "weight must be on"),
        BadInput("eps", lambda i: i | {"eps": 0.0}, KernelInputError, "eps must be > 0 and finite, got 0.0"),
        BadInput("type", lambda i: i | {"x": [1.0]}, KernelTypeError, "x must be a torch.Tensor, got list"),
    ),
)
