"""A row's bits do not depend on the rows beside it, their number or its place; ops say what a row is."""

from __future__ import annotations

import pytest
import torch
from kernel_harness import DEVICE, ci_cases, equal_bits

from tte_kernels._case import Case, Op
from tte_kernels._compare import as_tuple

ROWED = [parameters for parameters in ci_cases((torch.float32,)) if parameters.values[0].take_rows is not None]


@pytest.mark.parametrize(("op", "case", "dtype"), ROWED)
def test_rows_do_not_see_their_neighbours(op: Op, case: Case, dtype: torch.dtype) -> None:
    assert op.num_rows is not None and op.take_rows is not None
    inputs = case.make_inputs(2, DEVICE, dtype)
    count = op.num_rows(inputs)
    together = as_tuple(op.fn(**inputs))
    for keep in ([0], [count - 1], list(range(count - 1, -1, -3))):
        if count == 0:
            continue
        alone = as_tuple(op.fn(**op.take_rows(case.make_inputs(2, DEVICE, dtype), keep)))
        for whole, part in zip(together, alone, strict=True):
            assert equal_bits(whole[keep], part), f"rows {keep} differ from the same rows among {count}"
