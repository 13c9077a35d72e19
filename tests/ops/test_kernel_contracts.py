"""Doors refuse what breaks a contract with typed errors, and the operators' fakes are true to them."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from kernel_harness import DEVICE, full_case, without_interpreter

from tte_kernels import KernelBackendError, KernelError, rms_norm
from tte_kernels._case import BadInput, Case, Op
from tte_kernels._launch import interpreted
from tte_kernels.registry import OPS

BAD = [pytest.param(op, bad, id=f"{op.name}-{bad.name}") for op in OPS for bad in op.bad_inputs]


@pytest.mark.parametrize(("op", "bad"), BAD)
def test_bad_input_is_refused(op: Op, bad: BadInput) -> None:
    inputs = bad.change(full_case(op).make_inputs(0, "cpu", torch.float32))
    with pytest.raises(bad.raises, match=bad.match) as caught:
        op.fn(**inputs)
    assert isinstance(caught.value, KernelError)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_every_kind_of_bad_input_is_declared(op: Op) -> None:
    names = " ".join(bad.name for bad in op.bad_inputs)
    for kind in ("dtype", "shape", "stride", "device"):
        assert kind in names, f"{op.name} declares no bad input of kind {kind}"


def _smallest(op: Op) -> list[Case]:
    """Two cases with something in them; opcheck runs each about twenty times."""
    filled = [case for case in op.cases if case.tag == "ci" and min(case.dims.values()) > 0]
    return sorted(filled, key=lambda case: math.prod(case.dims.values()))[:2]


def _opcheck_calls() -> list[Any]:
    chosen = [(op, case) for op in OPS if op.opcheck is not None for case in _smallest(op)]
    return [pytest.param(op, case, id=f"{op.name}-{case.name}") for op, case in chosen]


@pytest.mark.parametrize(("op", "case"), _opcheck_calls())
def test_fakes_match_the_operators(op: Op, case: Case) -> None:
    assert op.opcheck is not None
    for overload, arguments in op.opcheck(case.make_inputs(0, DEVICE, torch.float32)):
        torch.library.opcheck(overload, arguments)


@pytest.mark.skipif(not interpreted(), reason="bfloat16 is refused by the interpreter only")
def test_the_interpreter_refuses_bfloat16() -> None:
    x = torch.ones(2, 32, dtype=torch.bfloat16)
    with pytest.raises(KernelBackendError, match="silently wrong in bfloat16"):
        rms_norm(x, x[0], 1e-6)


def test_importing_brings_no_triton_and_cpu_tensors_are_refused() -> None:
    code = (
        "import sys, torch, tte_kernels, tte_kernels.registry\n"
        "assert 'triton' not in sys.modules, 'importing tte_kernels imported triton'\n"
        "x = torch.ones(2, 32)\n"
        "try:\n"
        "    tte_kernels.rms_norm(x, x[0], 1e-6)\n"
        "except tte_kernels.KernelBackendError as error:\n"
        "    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], env=without_interpreter(), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "set TRITON_INTERPRET=1" in result.stdout
