"""Shapes on which pool_normalize is proven and measured. Knows the op's cost, not its kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tte_kernels._case import BadInput, Case, Inputs, Op, Tolerance
from tte_kernels._inputs import cumulative, index_device, int_tensor, random_tensor, strided_rows
from tte_kernels.errors import KernelInputError, KernelTypeError
from tte_kernels.pool_normalize import pool_normalize
from tte_kernels.pool_normalize.reference import pool_normalize as reference

__all__ = ["OP"]


@dataclass(frozen=True)
class _Shape:
    """What a case pools: `lengths` of sequences, or `rows` of `tokens` hidden states."""

    name: str
    dim: int
    lengths: tuple[int, ...] = ()
    rows: tuple[int, ...] | None = None
    tokens: int = 0
    mode: str = "last"
    kept: int | None = None
    dims: tuple[int, ...] | None = None
    flags: tuple[bool, ...] | None = None
    norm: bool = True
    normalize: bool = True
    strided: bool = False
    zeros: bool = False
    tag: str = "ci"


def _case(shape: _Shape) -> Case:
    tokens = shape.tokens or sum(shape.lengths)
    vectors = len(shape.lengths) if shape.rows is None else len(shape.rows)
    read = tokens if shape.mode == "mean" else vectors - sum(row < 0 for row in shape.rows or ())
    kept = shape.kept or shape.dim
    index_bytes = 4 * (vectors + 1) if shape.rows is None else 8 * vectors
    index_bytes += 4 * len(shape.dims or ()) + len(shape.flags or ())

    def make_inputs(seed: int, device: str, dtype: torch.dtype) -> Inputs:
        make = strided_rows if shape.strided else random_tensor
        hidden = make((tokens, shape.dim), seed, device, dtype, 0.0 if shape.zeros else 3.0)
        return {
            "hidden": hidden,
            "cu_seqlens": cumulative(shape.lengths, device) if shape.rows is None else None,
            "rows": None if shape.rows is None else int_tensor(shape.rows, device, torch.int64),
            "norm_weight": 1 + 0.1 * random_tensor((shape.dim,), seed + 1, device, dtype) if shape.norm else None,
            "eps": 1e-6,
            "dim": shape.kept,
            "dims": None if shape.dims is None else int_tensor(shape.dims, device),
            "mode": shape.mode,
            "normalize": shape.normalize
            if shape.flags is None
            else torch.tensor(shape.flags, device=index_device(device)),
        }

    return Case(
        name=shape.name,
        dims={"T": tokens, "S": vectors, "C": shape.dim, "E": kept},
        make_inputs=make_inputs,
        bytes_of=lambda dtype: (read + shape.norm) * shape.dim * dtype.itemsize + 4 * vectors * kept + index_bytes,
        flops=read * shape.dim * (3 * shape.norm + 1) + vectors * (shape.norm * shape.dim + 3 * shape.normalize * kept),
        tag="model" if shape.tag == "model" else "ci",
    )


def _model(name: str, dim: int, count: int, **how: Any) -> Case:
    """As an engine reads `count` vectors out: each has dims and a flag of its own."""
    return _case(_Shape(name, dim, dims=(dim,) * count, flags=(True,) * count, tag="model", **how))


def _traffic(inputs: Inputs, outputs: tuple[torch.Tensor, ...]) -> tuple[int, int]:
    hidden, rows, bounds, out = inputs["hidden"], inputs["rows"], inputs["cu_seqlens"], outputs[0]
    index = bounds if rows is None else rows
    if inputs["mode"] == "mean":
        read = int(bounds[-1] - bounds[0])
    else:
        read = out.shape[0] if rows is None else int((rows >= 0).sum())
    norm = inputs["norm_weight"] is not None
    flags, dims = inputs["normalize"], inputs["dims"]
    a_vector = [part for part in (flags, dims) if isinstance(part, torch.Tensor)]
    dim = hidden.shape[1]
    moved = read * dim * hidden.itemsize + norm * dim * hidden.itemsize + index.nbytes + out.nbytes
    moved += sum(part.nbytes for part in a_vector)
    # A row: add it; norm: square, sum, scale. A vector: weight; L2: square, sum, divide.
    flops = read * dim * (1 + 3 * norm) + out.shape[0] * dim * norm + 3 * (flags is not False) * out.numel()
    return moved, flops


def _take_rows(inputs: Inputs, keep: Sequence[int]) -> Inputs:
    index = torch.tensor(keep, device=inputs["hidden"].device)
    a_vector = {name: inputs[name] for name in ("rows", "dims", "normalize")}
    inputs = inputs | {name: part[index] for name, part in a_vector.items() if isinstance(part, torch.Tensor)}
    if inputs["rows"] is not None:
        return inputs
    bounds = inputs["cu_seqlens"].tolist()
    spans = [inputs["hidden"][bounds[i] : bounds[i + 1]] for i in keep]
    lengths = [span.shape[0] for span in spans]
    return inputs | {
        "hidden": torch.cat(spans),
        "cu_seqlens": cumulative(lengths, str(inputs["hidden"].device)),
    }


def _opcheck(inputs: Inputs) -> list[tuple[object, tuple[object, ...]]]:
    names = ("hidden", "cu_seqlens", "rows", "norm_weight", "eps", "dim", "dims", "mode", "normalize", "flags")
    flags = inputs["normalize"] if isinstance(inputs["normalize"], torch.Tensor) else None
    positional = inputs | {"dim": inputs["dim"] or inputs["hidden"].shape[1], "flags": flags}
    positional["normalize"] = inputs["normalize"] is not False
    return [(torch.ops.tte.pool_normalize.default, tuple(positional[name] for name in names))]


_MODELS = (
    ("tte_tiny", 192),
    ("qwen2vl_2b", 1536),
    ("qwen25vl_3b_qwen3vl_2b", 2048),
    ("qwen3vl_4b", 2560),
    ("qwen2vl_7b", 3584),
    ("qwen3vl_8b", 4096),
)

CASES: list[Case] = [
    _case(_Shape("empty", 96)),
    _case(_Shape("empty-rows", 96, rows=(), tokens=3)),
    _case(_Shape("padding-alone", 96, rows=(-1, -1))),
    _case(_Shape("last-1-63-127-129", 192, lengths=(1, 63, 127, 129))),
    _case(_Shape("last-1000-strided", 100, lengths=(1000, 1), strided=True)),
    _case(_Shape("mean-1-63-129", 96, lengths=(1, 63, 129), mode="mean")),
    _case(_Shape("mean-127-1000", 32, lengths=(127, 1000), mode="mean")),
    _case(_Shape("mean-strided-plain", 200, lengths=(7, 2), mode="mean", norm=False, normalize=False, strided=True)),
    _case(_Shape("rows-padding-cut", 384, rows=(5, -1, 0, 5), tokens=6, kept=96)),
    _case(_Shape("rows-own-dims", 192, rows=(3, 0, 2), tokens=4, dims=(192, 64, 7), flags=(True, False, True))),
    _case(_Shape("mean-own-dims-cut", 96, lengths=(2, 9), mode="mean", kept=64, dims=(200, 1), flags=(False, True))),
    _case(_Shape("rows-zero-states", 96, rows=(0, 1), tokens=2, zeros=True)),
    _case(_Shape("rows-C1536-cut1", 1536, rows=(2, 1), tokens=3, kept=1)),
    _case(_Shape("rows-C5000-no-norm", 5000, rows=(2,), tokens=3, norm=False)),
    *(
        _model(f"{model}-S{size}", dim, size, rows=tuple(range(size)), tokens=size)
        for model, dim in _MODELS
        for size in (1, 64, 8192)
    ),
    *(_model(f"{model}-mean-32x500", dim, 32, lengths=(500,) * 32, mode="mean") for model, dim in _MODELS),
]

OP = Op(
    name="pool_normalize",
    fn=pool_normalize,
    reference=reference,
    cases=CASES,
    # fp32 throughout whatever the input dtype, so only the order of sums differs; elements are of size
    # 1/sqrt(E), up to 3 without the L2 norm.
    tolerance={
        torch.float32: Tolerance(atol=2e-6, rtol=1e-5),
        torch.float16: Tolerance(atol=2e-6, rtol=1e-5),
        torch.bfloat16: Tolerance(atol=2e-6, rtol=1e-5),
    },
    formula="e = norm(pool(hidden))[:dim]; e / max(|e|, 1e-12)",
    used_by="the last step of every recipe",
    traffic=_traffic,
    num_rows=lambda inputs: int(
        inputs["rows"].shape[0] if inputs["rows"] is not None else len(inputs["cu_seqlens"]) - 1
    ),
    take_rows=_take_rows,
    opcheck=_opcheck,
    bad_inputs=(
        BadInput(
            "dtype-hidden",
            lambda i: i | {"hidden": i["hidden"].double()},
            KernelTypeError,
            "hidden must have dtype",
        ),
        BadInput(
            "dtype-rows",
            lambda i: i | {"rows": torch.zeros(1, dtype=torch.int32), "cu_seqlens": None},
            KernelTypeError,
            "rows must have dtype torch.int64",
        ),
        BadInput(
            "dtype-bounds",
            lambda i: i | {"rows": None, "cu_seqlens": torch.zeros(2, dtype=torch.int64)},
            KernelTypeError,
            "Row indices go in rows=",
        ),
        BadInput(
            "shape-hidden",
            lambda i: i | {"hidden": i["hidden"][0]},
            KernelInputError,
            "hidden must have shape",
        ),
        BadInput(
            "shape-weight",
            lambda i: i | {"norm_weight": i["hidden"][0, 1:]},
            KernelInputError,
            "norm_weight must have",
        ),
        BadInput(
            "stride",
            lambda i: i | {"hidden": i["hidden"].T.contiguous().T},
            KernelInputError,
            "contiguous in its",
        ),
        BadInput(
            "device",
            lambda i: i | {"hidden": i["hidden"].to("meta"), "norm_weight": None},
            KernelInputError,
            "must be on meta",
        ),
        BadInput(
            "shape-dims",
            lambda i: i | {"dims": torch.ones(999, dtype=torch.int32)},
            KernelInputError,
            "dims must have shape",
        ),
        BadInput("dtype-dims", lambda i: i | {"dims": torch.ones(1)}, KernelTypeError, "dims must have dtype"),
        BadInput(
            "dims-zero",
            lambda i: (
                i
                | {"rows": torch.zeros(1, dtype=torch.int64), "cu_seqlens": None, "mode": "last"}
                | {"dims": torch.zeros(1, dtype=torch.int32), "normalize": True}
            ),
            KernelInputError,
            "dims must be > 0, got 0",
        ),
        BadInput(
            "dtype-normalize",
            lambda i: i | {"normalize": torch.ones(1)},
            KernelTypeError,
            "normalize must have dtype torch.bool",
        ),
        BadInput("dim", lambda i: i | {"dim": 1 << 20}, KernelInputError, "dim must be in 1.."),
        BadInput(
            "dim-zero",
            lambda i: i | {"dim": 0},
            KernelInputError,
            "dim must be in 1.*got 0",
        ),
        BadInput(
            "mode",
            lambda i: i | {"mode": "max"},
            KernelInputError,
            "mode must be one of 'last', 'mean', got 'max'",
        ),
        BadInput(
            "neither",
            lambda i: i | {"rows": None, "cu_seqlens": None},
            KernelInputError,
            "exactly one of .* got neither",
        ),
        BadInput(
            "rows-outside",
            lambda i: i | {"rows": torch.tensor([1 << 20]), "cu_seqlens": None, "mode": "last"},
            KernelInputError,
            "rows must be below T",
        ),
        BadInput(
            "empty-sequence",
            lambda i: i | {"rows": None, "cu_seqlens": torch.tensor([0, 1, 1], dtype=torch.int32)},
            KernelInputError,
            "tokens of a sequence must be at least 1, got 0",
        ),
    ),
)
