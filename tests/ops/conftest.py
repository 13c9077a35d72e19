"""Set-up of the kernel tests: the interpreter where there is no GPU, its dot made exact in order, poisoned allocations.

Does not know any op.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    raise pytest.UsageError(
        "TRITON_INTERPRET must be 1 without a GPU; tests/conftest.py sets it. Is it being collected?"
    )


@pytest.fixture(scope="session", autouse=True)
def dots_in_order() -> None:
    """The interpreter's tl.dot adds its products in ascending k.

    It asks numpy's BLAS, which on some CPUs rounds a row by its place in the tile; equality of bits would then be a
    question of the machine. Elementwise products and sums round alike wherever a row stands.
    """
    if torch.cuda.is_available():
        return
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def create_dot(self: Any, a: Any, b: Any, d: Any, *precision: Any) -> Any:
        left, right = a.data.astype(d.data.dtype), b.data.astype(d.data.dtype)
        total = np.zeros_like(d.data)
        for k in range(left.shape[-1]):
            total += left[..., k, None] * right[..., k, None, :]
        return TensorHandle(total + d.data, d.dtype.scalar)

    InterpreterBuilder.create_dot = create_dot


def _poison_value(dtype: torch.dtype) -> float | int:
    return float("nan") if dtype.is_floating_point else torch.iinfo(dtype).max


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.empty and torch.empty_like come full of NaN (or the largest integer): what is unwritten shows."""
    empty, empty_like = torch.empty, torch.empty_like

    def fill(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.fill_(_poison_value(tensor.dtype))

    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: fill(empty(*args, **kwargs)))
    monkeypatch.setattr(torch, "empty_like", lambda *args, **kwargs: fill(empty_like(*args, **kwargs)))
    yield
