"""Shapes on which linear is proven and measured. Knows the op's cost, not its kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tte_kernels._case import BadInput, Case, Inputs, Op, Tolerance
from tte_kernels._inputs import random_tensor, strided_rows
from tte_kernels.errors import KernelInputError, KernelTypeError
from tte_kernels.linear import linear
from tte_kernels.linear.reference import linear as reference

__all__ = ["OP"]

# (in, out) of the merged projections of one layer: QKV, attention output, gate and up, down.
MODELS: dict[str, tuple[tuple[int, int], ...]] = {
    "tte_tiny": ((192, 320), (192, 192), (192, 1024), (512, 192)),
    "qwen2vl_2b": ((1536, 2048), (1536, 1536), (1536, 17920), (8960, 1536)),
    "qwen25vl_3b": ((2048, 2560), (2048, 2048), (2048, 22016), (11008, 2048)),
    "qwen2vl_7b": ((3584, 4608), (3584, 3584), (3584, 37888), (18944, 3584)),
    "qwen3vl_2b": ((2048, 4096), (2048, 2048), (2048, 12288), (6144, 2048)),
    "qwen3vl_4b": ((2560, 6144), (4096, 2560), (2560, 19456), (9728, 2560)),
    "qwen3vl_8b": ((4096, 6144), (4096, 4096), (4096, 24576), (12288, 4096)),
}


def _case(
    name: str,
    tokens: int,
    inner: int,
    outer: int,
    bias: bool = False,
    residual: bool = False,
    swiglu: bool = False,
    strided: bool = False,
    tag: str = "ci",
) -> Case:
    def make_inputs(seed: int, device: str, dtype: torch.dtype) -> Inputs:
        make = strided_rows if strided else random_tensor
        return {
            "x": make((tokens, inner), seed, device, dtype),
            # 1/sqrt(I), as in trained models: products then have unit size, which the tolerances are written
            # for.
            "weight": make((outer, inner), seed + 1, device, dtype, inner**-0.5),
            "bias": random_tensor((outer,), seed + 2, device, dtype) if bias else None,
            "residual": make((tokens, outer), seed + 3, device, dtype) if residual else None,
            "swiglu": swiglu,
        }

    columns = outer // 2 if swiglu else outer
    elements = tokens * inner + outer * inner + tokens * columns * (1 + residual) + outer * bias
    return Case(
        name=name,
        dims={"T": tokens, "I": inner, "O": outer},
        make_inputs=make_inputs,
        bytes_of=lambda dtype: elements * dtype.itemsize,
        flops=tokens * (outer * (2 * inner + bias + residual) + 2 * columns * swiglu),
        tag="model" if tag == "model" else "ci",
    )


def _traffic(inputs: Inputs, outputs: tuple[torch.Tensor, ...]) -> tuple[int, int]:
    tensors = [value for value in inputs.values() if isinstance(value, torch.Tensor)] + [outputs[0]]
    products = inputs["x"].numel() * inputs["weight"].shape[0]
    # An element: one addition for bias and residual each, silu and a product for SwiGLU.
    extra = sum(inputs[name] is not None for name in ("bias", "residual")) + 2 * inputs["swiglu"]
    return sum(tensor.nbytes for tensor in tensors), 2 * products + outputs[0].numel() * extra


def _take_rows(inputs: Inputs, keep: Sequence[int]) -> Inputs:
    index = torch.tensor(keep, device=inputs["x"].device)
    residual = inputs["residual"]
    return inputs | {"x": inputs["x"][index], "residual": None if residual is None else residual[index]}


CASES: list[Case] = [
    _case("empty", 0, 64, 48),
    _case("T1-I64-O16", 1, 64, 16),
    _case("T1-I192-O320-bias", 1, 192, 320, bias=True),
    _case("T63-I100-O70-residual", 63, 100, 70, residual=True),
    _case("T127-I33-O129-bias-residual", 127, 33, 129, bias=True, residual=True),
    _case("T129-I192-O192-strided", 129, 192, 192, bias=True, residual=True, strided=True),
    _case("T1000-I32-O24", 1000, 32, 24),
    _case("T1-tiny-I192-O256-swiglu", 1, 192, 256, swiglu=True),
    _case("T65-I100-O74-swiglu-strided", 65, 100, 74, swiglu=True, strided=True),
    *(
        _case(
            f"{model}-{inner}x{outer}-T{tokens}",
            tokens,
            inner,
            outer,
            bias=i == 0,
            residual=i in (1, 3),
            swiglu=i == 2,
            tag="model",
        )
        for model, shapes in MODELS.items()
        for i, (inner, outer) in enumerate(shapes)
        for tokens in (1, 300, 4096)
    ),
]

OP = Op(
    name="linear",
    fn=linear,
    reference=reference,
    cases=CASES,
    # Sums of unit size. fp32 differs by the order of the sum; fp16 and bf16 by one rounding of the result,
    # half a unit in the last place (2^-11 and 2^-8), doubled because the fp32 sums themselves differ. SwiGLU is
    # in fp32 as well, before that one rounding.
    tolerance={
        torch.float32: Tolerance(atol=2e-5, rtol=1e-5),
        torch.float16: Tolerance(atol=1e-3, rtol=1e-3),
        torch.bfloat16: Tolerance(atol=1e-3, rtol=1.6e-2),
    },
    formula="y = x @ weight.T + bias + residual; or silu(gate) * up",
    used_by="every projection of the prefill path",
    traffic=_traffic,
    num_rows=lambda inputs: int(inputs["x"].shape[0]),
    take_rows=_take_rows,
    opcheck=lambda inputs: [
        (torch.ops.tte.linear.default, tuple(inputs[name] for name in ("x", "weight", "bias", "residual", "swiglu")))
    ],
    bad_inputs=(
        BadInput("dtype-int", lambda i: i | {"x": i["x"].int()}, KernelTypeError, "x must have dtype"),
        BadInput(
            "dtype-weight",
            lambda i: i | {"weight": i["weight"].double()},
            KernelTypeError,
            "weight must have dtype",
        ),
        BadInput("shape-rank", lambda i: i | {"x": i["x"][None]}, KernelInputError, r"x must have shape \[T, I\]"),
        BadInput(
            "shape-weight",
            lambda i: i | {"weight": i["weight"][:, 1:]},
            KernelInputError,
            "weight must have shape",
        ),
        BadInput("shape-bias", lambda i: i | {"bias": i["weight"][0, :1]}, KernelInputError, "bias must have shape"),
        BadInput(
            "stride",
            lambda i: i | {"weight": i["weight"].T.contiguous().T},
            KernelInputError,
            "weight must be cont",
        ),
        BadInput("device", lambda i: i | {"weight": i["weight"].to("meta")}, KernelInputError, "weight must be on"),
        BadInput(
            "swiglu-odd",
            lambda i: i | {"weight": i["weight"][:3], "bias": None, "residual": None, "swiglu": True},
            KernelInputError,
            "O of weight must be even with swiglu, got 3",
        ),
        BadInput(
            "swiglu-bias",
            lambda i: i | {"swiglu": True, "weight": i["weight"][:2], "bias": i["weight"][0, :2], "residual": None},
            KernelInputError,
            "bias must be None with swiglu, got a tensor",
        ),
        BadInput("type", lambda i: i | {"x": [1.0]}, KernelTypeError, "x must be a torch.Tensor, got list"),
    ),
)
