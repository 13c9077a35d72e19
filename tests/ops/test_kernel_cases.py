"""The cases are honest data: unique, seeded, complete, and declared bytes and FLOPs are the tensors' own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kernel_harness import ci_cases

import tte_kernels
from tte_kernels import readme
from tte_kernels._case import Case, Op
from tte_kernels._compare import as_tuple, equal_bits
from tte_kernels._inputs import map_tensors
from tte_kernels.registry import OPS

PACKAGE = Path(tte_kernels.__file__).parent


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_cases_are_complete(op: Op) -> None:
    names = [case.name for case in op.cases]
    assert len(set(names)) == len(names)
    assert {case.tag for case in op.cases} == {"ci", "model"}
    assert any(0 in case.dims.values() for case in op.cases), "an empty batch is always in the list"
    assert any("strided" in name for name in names), "non-contiguous input is always in the list"
    assert set(op.tolerance) >= {dtype for case in op.cases for dtype in case.dtypes}
    assert getattr(tte_kernels, op.name) is op.fn and op.name in tte_kernels.__all__


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_every_op_has_its_four_files(op: Op) -> None:
    for name in ("__init__.py", "reference.py", "kernel.py", "cases.py"):
        assert (PACKAGE / op.name / name).is_file()
    assert "import triton" not in (PACKAGE / op.name / "reference.py").read_text()


@pytest.mark.parametrize(("op", "case", "dtype"), ci_cases((torch.float16,)))
def test_declared_bytes_and_flops_are_those_of_the_tensors(op: Op, case: Case, dtype: torch.dtype) -> None:
    inputs = case.make_inputs(0, "cpu", dtype)
    outputs = as_tuple(op.reference(**case.make_inputs(0, "cpu", dtype)))
    assert op.traffic(inputs, outputs) == (case.bytes_of(dtype), case.flops)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_declared_bytes_and_flops_hold_for_every_case_and_dtype(op: Op) -> None:
    """On tensors without memory: outputs are those of the operators' fakes."""
    assert op.opcheck is not None
    for case in op.cases:
        for dtype in case.dtypes:
            inputs = case.make_inputs(0, "meta", dtype)
            calls = [as_tuple(overload(*arguments)) for overload, arguments in op.opcheck(inputs)]
            outputs = tuple(output for call in calls for output in call)
            assert op.traffic(inputs, outputs) == (case.bytes_of(dtype), case.flops), (case.name, dtype)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_inputs_are_seeded(op: Op) -> None:
    for case in op.cases:
        if case.tag == "ci":
            found: list[list[torch.Tensor]] = [[], []]
            for tensors in found:
                map_tensors(case.make_inputs(5, "cpu", torch.float32), lambda t, into=tensors: into.append(t) or t)
            assert all(equal_bits(left, right) for left, right in zip(*found, strict=True)), case.name


def test_readme_is_generated_from_the_cases() -> None:
    written = (PACKAGE.parent / "README.md").read_text()
    assert written == readme.render(), "kernels/README.md is stale: run python -m tte_kernels.readme --write"
