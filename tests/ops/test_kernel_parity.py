"""Every op against its reference on all small cases, outputs poisoned; knows no op."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from kernel_harness import DEVICE, small_cases

from tte_kernels._case import Case, Op
from tte_kernels._compare import difference, equal_bits, parity_error
from tte_kernels._inputs import map_tensors
from tte_kernels.registry import get_op


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(("op", "case", "dtype"), small_cases((torch.float32, torch.float16, torch.bfloat16)))
def test_op_agrees_with_its_reference(op: Op, case: Case, dtype: torch.dtype) -> None:
    used = []

    def remember(seed: int, device: str, dtype: torch.dtype) -> dict[str, object]:
        inputs = case.make_inputs(seed, device, dtype)
        used.append((map_tensors(inputs, torch.clone), inputs))
        return inputs

    assert not parity_error(op, dataclasses.replace(case, make_inputs=remember), DEVICE, dtype)
    before, after = used[0]
    for name, value in before.items():
        if isinstance(value, torch.Tensor) and name not in op.mutates:
            assert equal_bits(value, after[name]), f"{name} was changed, but is not declared as mutated"


def test_a_difference_is_found_and_named() -> None:
    op = get_op("rms_norm")
    want = torch.tensor([1.0, float("nan"), 3.0])
    assert not difference(op, torch.float32, want.clone(), want)
    assert "1 of 3 elements" in difference(op, torch.float32, torch.tensor([1.0, float("nan"), 3.1]), want)
    assert "worst at flat index 0: got nan" in difference(op, torch.float32, torch.full((3,), torch.nan), want)
    assert "shape [2], wanted [3]" in difference(op, torch.float32, want[:2], want)
    assert "dtype torch.float16" in difference(op, torch.float32, want.half(), want)


def test_a_wrong_id_is_found() -> None:
    op = get_op("sample")
    case = next(case for case in op.cases if case.name == "S63-mixed")
    wrong = dataclasses.replace(op, fn=lambda **inputs: op.fn(**inputs) * 0)
    assert "fall short of the best" in parity_error(wrong, case, DEVICE, torch.float32)
