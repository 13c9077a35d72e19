"""Every op against its reference on all small cases, outputs poisoned; knows no op."""

from __future__ import annotations

import pytest
import torch
from kernel_harness import DEVICE, as_tuple, assert_close, ci_cases, equal_bits, map_tensors, run
from tte_kernels._case import Case, Op


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(("op", "case", "dtype"), ci_cases((torch.float32, torch.float16, torch.bfloat16)))
def test_op_agrees_with_its_reference(op: Op, case: Case, dtype: torch.dtype) -> None:
    inputs = case.make_inputs(0, DEVICE, dtype)
    kept = map_tensors(inputs, torch.clone)
    got = run(op.fn, op, inputs)
    want = run(op.reference, op, case.make_inputs(0, DEVICE, dtype))
    assert len(got) == len(want)
    if op.shortfall is not None:
        shortfall = op.shortfall(inputs, as_tuple(op.fn(**inputs)))
        assert bool((shortfall <= op.tolerance[dtype].atol).all()), (
            f"chosen ids fall short by {shortfall.max():.3g}"
        )
    else:
        for number, (ours, theirs) in enumerate(zip(got, want, strict=True)):
            assert_close(op, dtype, ours, theirs, f"output {number}")
    for name, before in kept.items():
        if isinstance(before, torch.Tensor) and name not in op.mutates:
            assert equal_bits(before, inputs[name]), f"{name} was changed, but is not declared as mutated"
