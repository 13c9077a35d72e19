"""What a draw means: known random words, the same noise in both forms, right frequencies, ties, top-k and
top-p.

Shapes, bounds and parity of the fused kernel are held by the shared kernel tests.
"""

from __future__ import annotations

import pytest
import torch

from tte_kernels import KernelInputError, sample, sample_logits
from tte_kernels.sample.reference import gumbel, philox


def _rows(count: int, temperature: float) -> dict[str, torch.Tensor]:
    return {
        "temperature": torch.full((count,), temperature),
        "seed": torch.full((count,), 7, dtype=torch.int64),
        "position": torch.arange(count),
        "trace_index": torch.zeros(count, dtype=torch.int64),
        "stop_ids": torch.full((count, 1), -1),
    }


def _off(count: int) -> dict[str, torch.Tensor]:
    return {"top_k": torch.zeros(count, dtype=torch.int64), "top_p": torch.ones(count)}


@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [  # known answers of the Random123 library, kat_vectors, philox4x32 with 10 rounds
        (0, (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (-1, (-1, -1, -1, -1), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            0x299F31D0_A4093822,
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers(key: int, counter: tuple[int, ...], words: tuple[int, ...]) -> None:
    got = philox(torch.tensor([key]), tuple(torch.tensor([word]) for word in counter))
    assert tuple(int(word) for word in got) == words


def test_noise_depends_on_each_argument_and_on_nothing_else() -> None:
    base = [torch.tensor([value]) for value in (5, 6, 7)]
    noise = gumbel(*base, 50)
    assert torch.equal(noise, gumbel(*base, 80)[:, :50])
    for changed in range(3):
        other = [value + (number == changed) for number, value in enumerate(base)]
        assert not torch.equal(noise, gumbel(*other, 50))


def test_noise_is_finite_and_gumbel() -> None:
    noise = gumbel(torch.arange(40), torch.arange(40), torch.arange(40), 5000).double()
    assert noise.isfinite().all()
    # Mean (Euler's constant) and variance (pi^2 / 6), within five standard errors of 200,000 draws.
    assert abs(noise.mean().item() - 0.57722) < 5 * 1.2825 / 200_000**0.5
    assert abs(noise.var().item() - 1.64493) < 5 * (5.4 - 1) ** 0.5 * 1.64493 / 200_000**0.5


def test_frequencies_are_those_of_the_softmax() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0]).repeat(4000, 1)
    ids = sample_logits(logits, **_rows(4000, 0.7), **_off(4000))[:, 0]
    wanted = (logits[0] / 0.7).softmax(-1)
    counted = torch.bincount(ids, minlength=4) / 4000
    assert ((counted - wanted).abs() < 5 * (wanted * (1 - wanted) / 4000).sqrt()).all()


def test_fused_and_unfused_draw_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(20, 32, generator=generator), torch.randn(150, 32, generator=generator)
    fused = sample(hidden, weight, **_rows(20, 1.5))
    assert torch.equal(fused, sample_logits(hidden @ weight.T, **_rows(20, 1.5), **_off(20)))
    assert not torch.equal(fused[:, 0], (hidden @ weight.T).argmax(-1)), "a draw at temperature 1.5 is not the argmax"


@pytest.mark.parametrize("count", [0, 1, 8, 16, 17, 40], ids=lambda count: f"{count} stop ids")
def test_a_token_is_a_stop_of_its_own_row_only(count: int) -> None:
    """The stop stands last among the row's, the other rows' stops are other tokens."""
    weight, hidden = torch.eye(64, 16).roll(20, 0), torch.eye(5, 16)  # row i draws token 20 + i
    rows = _rows(5, 0.0) | {"stop_ids": torch.full((5, count), -1)}
    if count:
        rows["stop_ids"][:, -1] = torch.tensor([20, 20, 22, 63, 24])
    wanted = [[20 + i, int(count > 0 and i in (0, 2, 4))] for i in range(5)]
    assert sample(hidden, weight, **rows).tolist() == wanted
    assert sample_logits(hidden @ weight.T, **rows, **_off(5)).tolist() == wanted


@pytest.mark.parametrize("winners", [(3, 200), (64, 65, 199), (0, 1)])
def test_ties_go_to_the_lowest_id(winners: tuple[int, ...]) -> None:
    weight = torch.zeros(201, 16)
    weight[list(winners)] = 1.0  # equal logits, within one tile and across tiles
    hidden = torch.ones(3, 16)
    assert sample(hidden, weight, **_rows(3, 0.0))[:, 0].tolist() == [winners[0]] * 3
    assert sample_logits(hidden @ weight.T, **_rows(3, 0.0), **_off(3))[:, 0].tolist() == [winners[0]] * 3


def test_nan_loses_and_an_id_is_always_valid() -> None:
    weight = torch.full((70, 16), float("nan"))
    assert sample(torch.ones(2, 16), weight, **_rows(2, 1.0))[:, 0].tolist() == [0, 0]
    weight[66] = -1.0
    assert sample(torch.ones(2, 16), weight, **_rows(2, 0.0))[:, 0].tolist() == [66, 66]
    assert sample_logits(torch.ones(2, 16) @ weight.T, **_rows(2, 0.0), **_off(2))[:, 0].tolist() == [66, 66]


def test_top_k_keeps_exactly_k_and_the_lowest_ids_of_a_tie() -> None:
    logits = torch.zeros(500, 10)
    kept = sample_logits(logits, **_rows(500, 1.0), **(_off(500) | {"top_k": torch.full((500,), 3)}))
    assert set(kept[:, 0].tolist()) == {0, 1, 2}
    one = sample_logits(torch.arange(10.0).repeat(5, 1), **_rows(5, 9.0), **(_off(5) | {"top_k": torch.ones(5).long()}))
    assert one[:, 0].tolist() == [9] * 5


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().repeat(600, 1)
    for top_p, allowed in ((0.4, {0}), (0.79, {0, 1}), (0.94, {0, 1, 2}), (1.0, {0, 1, 2, 3})):
        ids = sample_logits(logits, **_rows(600, 1.0), **(_off(600) | {"top_p": torch.full((600,), top_p)}))
        assert set(ids[:, 0].tolist()) == allowed, top_p


def test_each_row_has_its_own_limits() -> None:
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    limits = {
        "top_k": torch.tensor([0, 1, 5, 0, 2, 40]),
        "top_p": torch.tensor([1.0, 1.0, 0.9, 0.5, 0.3, 0.99]),
    }
    rows = _rows(6, 1.1)
    together = sample_logits(logits, **rows, **limits)
    for i in range(6):
        alone = sample_logits(logits[i : i + 1], **{k: v[i : i + 1] for k, v in (rows | limits).items()})
        assert torch.equal(alone[0], together[i])


def test_an_empty_batch_and_an_empty_vocabulary() -> None:
    assert sample_logits(torch.zeros(0, 5), **_rows(0, 1.0), **_off(0)).shape == (0, 2)
    with pytest.raises(KernelInputError, match="V of logits must be >= 1, got 0"):
        sample_logits(torch.zeros(2, 0), **_rows(2, 1.0), **_off(2))
