"""Sums in one order: near the truth, not changed by zeros behind, and the same whether code is compiled or loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("numba")
from numba import njit

from tte_runtime.ops.rows.numbers import STRICT
from tte_runtime.ops.rows.sums import add_up, dot, dots_of_4

ROOT = Path(__file__).parents[2]
SCRIPT = """
import hashlib, torch
from types import SimpleNamespace as Some
from tte_runtime.ops.layout import StepLayout
from tte_runtime.ops.rows.stack import RowStack
from tte_runtime.ops.rows.team import Team
torch.manual_seed(0)
matrix = lambda o, i: Some(weight=torch.randn(o, i))
layer = Some(input_norm=torch.rand(64), qkv=matrix(128, 64), qkv_bias=None, q_norm=None, k_norm=None,
             out=matrix(64, 64), post_norm=torch.rand(64), gate_up=matrix(96, 64), down=matrix(64, 48))
shape = Some(num_heads=2, num_kv_heads=1, hidden_size=64, intermediate_size=48, norm_eps=1e-6)
turn = Some(inv_freq=torch.rand(16), axis=torch.zeros(16, dtype=torch.int64), factor=1.0)
stack = RowStack([layer], shape, turn, Team(1), prompts=True)
count = lambda *values: torch.tensor(values, dtype=torch.int32)
layout = StepLayout(False, torch.arange(16, 66), count(1, 2, 3, 4)[None], count(0, 50), count(50), (50,), (50,))
states = stack.forward(torch.randn(50, 64), torch.arange(50).expand(3, -1), layout, torch.zeros(1, 2, 6, 1, 16, 32))
print(hashlib.sha256(states.numpy().tobytes()).hexdigest())
"""


@njit(**STRICT)
def _of(a, b, n):  # type: ignore[no-untyped-def]
    return add_up(b, 0, n), dot(a, 0, b, 0, n)


@njit(**STRICT)
def _of_4(a, b, n):  # type: ignore[no-untyped-def]
    return dots_of_4(a, b, 0, n, n)


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 64, 80, 1000])
def test_sums_are_right(n: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.standard_normal((2, n + 40)).astype(np.float32)
    total, product = _of(a, b, n)
    assert abs(total - b[:n].astype(float).sum()) < 1e-4
    assert abs(product - (a[:n].astype(float) * b[:n]).sum()) < 1e-4


@pytest.mark.parametrize("n", [16, 64, 100])
def test_four_at_once_have_the_bits_of_one(n: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.standard_normal(n).astype(np.float32), rng.standard_normal(4 * n).astype(np.float32)
    rounded = torch.from_numpy(b).bfloat16()
    wide, halves = rounded.float().numpy(), rounded.view(torch.uint16).numpy()
    ones = [_of(a, wide[i * n : (i + 1) * n], n)[1] for i in range(4)]
    assert list(_of_4(a, wide, n)) == ones and list(_of_4(a, halves, n)) == ones


def test_zeros_behind_change_nothing() -> None:
    row = np.zeros(32 * 9, np.float32)
    row[:50] = np.random.default_rng(1).standard_normal(50)
    assert len({_of(row, row, 32 * panels) for panels in range(2, 10)}) == 1


def test_bits_do_not_depend_on_when_code_was_compiled(tmp_path: Path) -> None:
    """A process that compiles and one that loads what it left: Numba links functions in another order then."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    digests = [
        subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert "compiled" in digests[0].stderr and "compiled" not in digests[1].stderr
    assert digests[0].stdout == digests[1].stdout
