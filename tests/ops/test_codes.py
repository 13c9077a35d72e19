"""Products of 8 bits, compiled: what the codes stand for, however many rows; equal bits for a row among any."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numba import njit

from tte_runtime.ops.rows.codes import encode, make_tile, multiply_codes
from tte_runtime.ops.rows.output import RowOutput
from tte_runtime.ops.rows.packing import CODE_HEAD, WORD, pack_codes, whole_panels
from tte_runtime.ops.rows.team import Team

SHAPES = {"tiny": (320, 192), "narrow": (5, 7), "odd": (97, 513), "deep": (64, 1600), "one": (1, 1)}


def exactly(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """What the codes stand for, multiplied in double precision."""

    def rounded(rows: torch.Tensor) -> torch.Tensor:
        scale = (rows.abs().amax(1, keepdim=True) / 127).clamp_min(1e-30)
        return torch.round(rows / scale).double() * scale.double()

    return rounded(x) @ rounded(weight).T


def product(x: torch.Tensor, packed: Any, size: int) -> torch.Tensor:
    out = np.zeros((len(x), whole_panels(size)), np.float32)
    multiply_codes(out, 0, x.numpy(), len(x), x.shape[1], packed, 0, 0, out.shape[1] // 32)
    return torch.from_numpy(out[:, :size])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_product_of_any_number_of_rows(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(shape), torch.randn(101, shape[1])
    x[3] = 0
    packed = pack_codes(weight)
    assert packed.nbytes == whole_panels(shape[0]) // 32 * (CODE_HEAD + -(-shape[1] // WORD) * WORD * 32)
    whole = product(x, packed, shape[0])
    near = exactly(weight, x)
    # a code on the edge between two may fall to either side of it in float32
    assert ((whole - near).abs() > 1e-4 * near.abs().max()).double().mean() < 0.01
    torch.testing.assert_close(whole.double(), near, rtol=0, atol=0.02 * float(near.abs().max()))
    for rows in (*range(1, 26), 60):
        assert torch.equal(product(x[7 : 7 + rows], packed, shape[0]), whole[7 : 7 + rows]), f"{rows} rows"


def test_sums_are_the_same_without_the_instruction() -> None:
    rng = np.random.default_rng(0)
    x, packed = rng.standard_normal((6, 64), np.float32), pack_codes(torch.randn(32, 64))
    codes, scales = np.empty((6, 64), np.uint8), np.empty(6, np.float32)
    for row in range(6):
        scales[row] = encode(x[row], 64, codes[row])
    plain = make_tile(6, 1, vnni=False)

    @njit
    def run(out: Any, codes: Any, scales: Any, packed: Any) -> None:
        plain(out, 0, 32, codes, 0, 64, scales, 0, packed, 0, packed.shape[0], 16)

    out = np.zeros(6 * 32, np.float32)
    run(out, codes.reshape(-1), scales, packed)
    wanted = np.zeros((6, 32), np.float32)
    multiply_codes(wanted, 0, x, 6, 64, packed, 0, 0, 1)
    assert np.array_equal(out.reshape(6, 32), wanted)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_row(bad: float) -> None:
    packed, x = pack_codes(torch.randn(40, 8)), torch.randn(13, 8)
    clean = product(x, packed, 40)
    x[5, 3] = bad
    got = product(x, packed, 40)
    assert got[5].isnan().all()
    assert torch.equal(got[torch.arange(13) != 5], clean[torch.arange(13) != 5])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("rows", [1, 3, 13])
def test_scores_of_tokens(rows: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tte_runtime.ops.rows.team.WORTH_DIVIDING", 0)
    weight, hidden, norm = torch.randn(515, 96), torch.randn(rows, 96), torch.ones(96)
    output = RowOutput(weight, Team(threads), "w8a8")
    normed = hidden * torch.rsqrt(hidden.square().mean(1, keepdim=True) + 1e-6)
    scores = torch.from_numpy(output.scores(hidden, norm, 1e-6))
    wanted = exactly(weight, normed)
    torch.testing.assert_close(scores.double(), wanted, rtol=0, atol=0.02 * float(wanted.abs().max()))
    assert torch.equal(output.likeliest(hidden, norm, 1e-6), scores.argmax(1))
    for row in range(rows):
        assert np.array_equal(output.scores(hidden[row : row + 1], norm, 1e-6)[0], scores[row].numpy())
