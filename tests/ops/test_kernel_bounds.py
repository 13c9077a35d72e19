"""No kernel writes outside its tensors, and what lies outside them changes nothing; does not know what an op
computes.

Inputs and every allocation lie between guard regions, once of NaN (and 0), once of numbers that would show in
a sum.
"""

from __future__ import annotations

import pytest
import torch
from kernel_harness import DEVICE, Guards, small_cases

from tte_kernels._case import Case, Op
from tte_kernels._compare import equal_bits, run
from tte_kernels._inputs import map_tensors


def _guarded_run(
    op: Op, case: Case, dtype: torch.dtype, guards: Guards, monkeypatch: pytest.MonkeyPatch
) -> tuple[torch.Tensor, ...]:
    inputs = map_tensors(case.make_inputs(0, DEVICE, dtype), guards.place)
    empty, empty_like = torch.empty, torch.empty_like
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", lambda *args, **kwargs: guards.place(empty(*args, **kwargs).zero_()))
        patch.setattr(torch, "empty_like", lambda *args, **kwargs: guards.place(empty_like(*args, **kwargs).zero_()))
        outputs = run(op.fn, op, inputs)
    guards.assert_untouched(op)
    return outputs


@pytest.mark.parametrize(("op", "case", "dtype"), small_cases((torch.float32,)))
def test_nothing_outside_is_written_or_matters(
    op: Op, case: Case, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _guarded_run(op, case, dtype, Guards(float("nan"), 0), monkeypatch)
    second = _guarded_run(op, case, dtype, Guards(1e4, 1), monkeypatch)
    for number, (left, right) in enumerate(zip(first, second, strict=True)):
        assert not (left.is_floating_point() and left.isnan().any()), f"output {number} has read a guard of NaN"
        assert equal_bits(left, right), f"output {number} depends on what lies outside the inputs"


def test_the_guards_notice_a_write() -> None:
    from tte_kernels.registry import OPS

    guards = Guards(float("nan"), 0)
    view = guards.place(torch.arange(12.0).view(3, 4)[:, :2])
    view.as_strided((1,), (1,), view.storage_offset() + 2).fill_(5.0)  # the gap between two rows
    with pytest.raises(AssertionError, match="written outside"):
        guards.assert_untouched(OPS[0])
