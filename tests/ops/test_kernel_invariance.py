"""A row's bits do not depend on the rows beside it, their number or its place; ops say what a row is."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from kernel_harness import DEVICE, ci_cases

from tte_kernels._case import Case, Op
from tte_kernels._compare import invariance_error
from tte_kernels.registry import get_op

DTYPES = (torch.float32, torch.float16)
ROWED = [parameters for parameters in ci_cases(DTYPES) if parameters.values[0].take_rows is not None]


@pytest.mark.parametrize(("op", "case", "dtype"), ROWED)
def test_rows_do_not_see_their_neighbours(op: Op, case: Case, dtype: torch.dtype) -> None:
    assert not invariance_error(op, case, DEVICE, dtype)


def test_a_row_that_sees_its_neighbours_is_found() -> None:
    op = get_op("rms_norm")
    leaky = dataclasses.replace(op, fn=lambda x, **_: x + x.sum(0))
    case = next(case for case in op.cases if case.name == "T63-C96")
    assert "rows [0] differ from the same rows among 63" in invariance_error(leaky, case, "cpu", torch.float32)
