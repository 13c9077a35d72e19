"""Runs an op beside its reference, or beside itself on fewer rows, and says in words where they differ.

One definition for tests and for hardware runs. Does not know any op, nor where the inputs came from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tte_kernels._case import Case, Inputs, Op

__all__ = ["as_tuple", "difference", "equal_bits", "invariance_error", "parity_error", "run"]


def as_tuple(outputs: Any) -> tuple[torch.Tensor, ...]:
    """The outputs of an op as a tuple."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


def run(function: Callable[..., Any], op: Op, inputs: Inputs) -> tuple[torch.Tensor, ...]:
    """Outputs of `function`, followed by the arguments that it wrote."""
    outputs = as_tuple(function(**inputs))
    return (*outputs, *(inputs[name] for name in op.mutates))


def difference(op: Op, dtype: torch.dtype, got: torch.Tensor, want: torch.Tensor) -> str:
    """Why `got` is not `want` within the op's tolerance for `dtype`; empty if it is. NaN equals only NaN."""
    if got.shape != want.shape:
        return f"shape {list(got.shape)}, wanted {list(want.shape)}"
    if got.dtype != want.dtype:
        return f"dtype {got.dtype}, wanted {want.dtype}"
    limit = op.tolerance[dtype]
    error = (got.float() - want.float()).abs()
    bad = ~(error <= limit.atol + limit.rtol * want.float().abs())
    bad &= ~(got.isnan() & want.isnan())  # pages that nobody wrote may hold anything
    if not bad.any():
        return ""
    worst = int(torch.where(bad, torch.where(error.isnan(), torch.inf, error), -1.0).argmax())
    return (
        f"{int(bad.sum())} of {bad.numel()} elements outside {limit}; worst at flat index {worst}:"
        f" got {got.flatten()[worst].item()!r}, wanted {want.flatten()[worst].item()!r}"
    )


def parity_error(op: Op, case: Case, device: str, dtype: torch.dtype, seed: int = 0) -> str:
    """Runs one case through the op and its reference; says how they differ, empty if they agree."""
    inputs = case.make_inputs(seed, device, dtype)
    got = run(op.fn, op, inputs)
    if op.shortfall is not None:
        shortfall = op.shortfall(inputs, got)
        ok = bool((shortfall <= op.tolerance[dtype].atol).all())
        return "" if ok else f"chosen ids fall short of the best by {shortfall.max().item():.3g}"
    want = run(op.reference, op, case.make_inputs(seed, device, dtype))
    if len(got) != len(want):
        return f"{len(got)} outputs, wanted {len(want)}"
    found = [difference(op, dtype, ours, theirs) for ours, theirs in zip(got, want, strict=True)]
    return "; ".join(f"output {number}: {words}" for number, words in enumerate(found) if words)


def equal_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Equal shape, dtype and values; NaN equals NaN."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    return bool(((left == right) | (left.isnan() & right.isnan())).all())


def invariance_error(op: Op, case: Case, device: str, dtype: torch.dtype, seed: int = 2) -> str:
    """Runs the first row, the last row, and some rows backwards, each without the others; says which then differ.

    Empty if all have the bits that they have together. The op must declare `num_rows` and `take_rows`.
    """
    assert op.num_rows is not None and op.take_rows is not None
    inputs = case.make_inputs(seed, device, dtype)
    count = op.num_rows(inputs)
    together = as_tuple(op.fn(**inputs))
    some = list(range(count - 1, -1, -max(3, count // 8)))
    for keep in ([0], [count - 1], some) if count else ():
        alone = as_tuple(op.fn(**op.take_rows(case.make_inputs(seed, device, dtype), keep)))
        for number, (whole, part) in enumerate(zip(together, alone, strict=True)):
            if not equal_bits(whole[keep], part):
                return f"output {number}: rows {keep} differ from the same rows among {count}"
    return ""
