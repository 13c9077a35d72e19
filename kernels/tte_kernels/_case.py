"""The data classes by which an op describes itself: `Case`, `BadInput`, `Op` and `CompileSpec`.

Tests, benchmarks, the compile check and the README table read these and nothing else, so a new op is picked
up by all four without touching them. This file does not know any op, and imports no Triton.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

__all__ = ["BadInput", "Case", "CompileSpec", "Inputs", "Op", "Tolerance"]

Inputs = dict[str, Any]
"""Keyword arguments of an op, by name. Tensors may sit inside dataclasses or tuples (packed weights)."""


@dataclass(frozen=True)
class Tolerance:
    """|got - want| <= atol + rtol * |want|, elementwise, both in fp32."""

    atol: float
    rtol: float


@dataclass(frozen=True)
class Case:
    """One shape of one op, with what it costs.

    Attributes:
        name: unique within the op, e.g. "qwen2vl_2b-T64".
        dims: the letters of the contract and their sizes, e.g. {"T": 63, "C": 96}.
        make_inputs: (seed, device, dtype) -> keyword arguments. Seeded, so that two calls give equal tensors. On
            "meta" floats have no memory, and integers lie on the CPU.
        bytes_of: bytes that a perfect kernel must move (each input byte it needs once, each output byte
            once), as a function of the activation dtype. Closed form in `dims`; a test holds it against the
            tensors.
        flops: multiply and add counted as two; closed form in `dims`.
        tag: "ci" runs under the interpreter in under a second; "model" is a real model's shape, for hardware;
            here it runs where it costs no more than the small ones.
        dtypes: activation dtypes of the case. bf16 is skipped under the interpreter, which is silently wrong
            in it.
    """

    name: str
    dims: Mapping[str, int]
    make_inputs: Callable[[int, str, torch.dtype], Inputs]
    bytes_of: Callable[[torch.dtype], int]
    flops: int
    tag: Literal["ci", "model"] = "ci"
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class BadInput:
    """A way to break a contract: `change(inputs)` must be refused with `raises`, its message like `match`."""

    name: str
    change: Callable[[Inputs], Inputs]
    raises: type[Exception]
    match: str


@dataclass(frozen=True)
class Op:
    """Everything the harness needs to know about one op.

    Attributes:
        name: the op's name, the name of its folder, and of "tte::<name>".
        fn, reference: public function and specification; both take a case's inputs as keyword arguments.
        cases: shapes; at least one "ci" and one "model".
        tolerance: per activation dtype, justified by a comment beside it.
        formula, used_by: one line each, for the README table.
        traffic: (inputs, outputs) -> (bytes, flops), counted from the actual tensors, independent of
            `Case.bytes_of`.
        mutates: names of the arguments that the op writes.
        shortfall: for outputs that are ids: (inputs, outputs) -> how much worse in fp32 the chosen ones score
            than the best; compared with `Tolerance.atol` instead of elementwise, as a near tie may fall
            either way.
        num_rows, take_rows: rows whose bits must not depend on their neighbours. `take_rows(inputs, keep)`
            gives inputs of only those rows; output row i must then equal row keep[i] of the full run. None:
            no such axis.
        opcheck: (inputs) -> list of (torch.ops.tte.<overload>, positional args) for torch.library.opcheck.
        bad_inputs: at least a wrong dtype, a wrong shape, a wrong stride and a wrong device where they apply.
    """

    name: str
    fn: Callable[..., Any]
    reference: Callable[..., Any]
    cases: Sequence[Case]
    tolerance: Mapping[torch.dtype, Tolerance]
    formula: str
    used_by: str
    traffic: Callable[[Inputs, tuple[torch.Tensor, ...]], tuple[int, int]]
    mutates: tuple[str, ...] = ()
    shortfall: Callable[[Inputs, tuple[torch.Tensor, ...]], torch.Tensor] | None = None
    num_rows: Callable[[Inputs], int] | None = None
    take_rows: Callable[[Inputs, Sequence[int]], Inputs] | None = None
    opcheck: Callable[[Inputs], list[tuple[Any, tuple[Any, ...]]]] | None = None
    bad_inputs: Sequence[BadInput] = field(default=())


@dataclass(frozen=True)
class CompileSpec:
    """One kernel in one shipped configuration, ready for triton.compile without a GPU.

    Attributes:
        name: "<kernel>/<configuration>", unique within the op.
        fn: the @triton.jit function.
        signature: argument name -> Triton type ("*bf16", "i64", "fp32"); constexprs are left out of it.
        constexprs: constexpr name -> value.
        num_warps, num_stages: as launched.
        streamed: the kernel streams its main operand from memory, so 128-bit loads are required on sm_90.
        aligned: integer arguments that are multiples of 16 in the shipped shapes (strides). Pointers always
            are.
        max_registers: budget a thread on sm_90.
        fp_fusion, maxnreg: Triton's enable_fp_fusion and, on NVIDIA's GPUs, maxnreg, as launched.
        loads_before_wait: with PDL, how many global loads may stand above the wait: those of weights.
    """

    name: str
    fn: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    num_warps: int
    num_stages: int
    streamed: bool = False
    aligned: tuple[str, ...] = ()
    max_registers: int = 255
    fp_fusion: bool = False
    maxnreg: int | None = None
    loads_before_wait: int = 0
