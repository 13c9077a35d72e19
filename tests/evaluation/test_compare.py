"""The interleaved measurement: parity before time, no time without parity, every way takes its turn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from tte_runtime.errors import OptionError
from tte_runtime.evaluation.compare import Arm, Comparison, Measured, Parity, Spread, compare
from tte_runtime.evaluation.machine import describe_machine


@dataclass(frozen=True, eq=False)
class Outcome:
    vector: NDArray[np.float32]
    trace_ids: tuple[int, ...]


def outcome(*ids: int, shift: float = 0.0) -> Outcome:
    return Outcome(np.array([0.6, 0.8 + shift], np.float32), ids)


def arm(name: str, calls: list[str], shift: float = 0.0, trace: tuple[int, ...] = (4, 5)) -> Arm:
    def embed(item: object) -> Outcome:
        calls.append(f"{name}{item}")
        return outcome(*trace, shift=shift)

    return Arm(name, embed, lambda: calls.append(f"before {name}"))


def test_every_arm_runs_every_item_and_the_order_rotates() -> None:
    calls: list[str] = []
    ticks: list[int] = []
    arms = [arm(name, calls) for name in "abc"]
    found = compare(arms, [0, 1], repetitions=2, on_item=lambda: ticks.append(1))
    assert calls[::2] == [f"before {call[0]}" for call in calls[1::2]]
    runs = calls[1::2]
    assert runs[:6] == ["a0", "a1", "b0", "b1", "c0", "c1"]
    assert runs[6:] == ["a0", "b0", "c0", "b1", "c1", "a1", "b0", "c0", "a0", "c1", "a1", "b1"]
    assert len(ticks) == 18 and found.parity_holds
    assert [len(measured.seconds) for measured in found.arms] == [2, 2, 2]
    assert all(measured.tokens == 4 for measured in found.arms)


def test_in_turns_of_a_repetition_each_way_goes_through_all_items_behind_an_untimed_one() -> None:
    calls: list[str] = []
    ticks: list[int] = []
    found = compare(
        [arm(name, calls) for name in "ab"],
        [0, 1],
        repetitions=2,
        turns="repetition",
        on_item=lambda: ticks.append(1),
    )
    assert calls[::2] == [f"before {call[0]}" for call in calls[1::2]]
    assert calls[9::2] == ["a1", "a0", "a1", "b1", "b0", "b1", "b1", "b0", "b1", "a1", "a0", "a1"]
    assert len(ticks) == 12
    assert [[len(row) for row in measured.seconds] for measured in found.arms] == [[2, 2], [2, 2]]


@pytest.mark.parametrize(("shift", "trace", "same"), [(1e-3, (4, 5), 1), (0.0, (4, 6), 0), (float("nan"), (4, 5), 1)])
def test_what_fails_parity_is_not_timed(shift: float, trace: tuple[int, ...], same: int) -> None:
    calls: list[str] = []
    found = compare([arm("a", calls), arm("b", calls), arm("c", calls, shift, trace)], [0], repetitions=3)
    assert not found.parity_holds
    assert found.arms[2].seconds == () and len(found.arms[1].seconds) == 3
    assert found.arms[2].parity.same_traces == same
    assert calls.count("c0") == 1


def test_nothing_is_timed_when_nobody_agrees() -> None:
    calls: list[str] = []
    found = compare([arm("a", calls), arm("b", calls, 1.0)], [0], repetitions=3)
    assert [measured.seconds for measured in found.arms] == [(), ()]


def test_figures_are_medians_paired_by_repetition() -> None:
    parity = Parity(1, 1, 0.0, 1e-5)
    ours = Measured("ours", parity, ((0.01, 0.03), (0.02, 0.02), (0.04, 0.04)), 30)
    theirs = Measured("theirs", parity, ((0.04, 0.04), (0.08, 0.08), (0.08, 0.08)), 30)
    assert ours.ms_per_item == Spread(pytest.approx(20), pytest.approx(20), pytest.approx(40))
    assert ours.tokens_per_second.median == pytest.approx(750)
    ratio = Comparison((ours, theirs)).times_slower(theirs)
    assert (ratio.median, ratio.least, ratio.most) == (pytest.approx(2), pytest.approx(2), pytest.approx(4))


def test_nothing_to_compare_is_refused() -> None:
    for arms, items, repetitions in (([], [0], 1), ([arm("a", [])], [], 1), ([arm("a", [])], [0], 0)):
        with pytest.raises(OptionError, match="needs an arm, an item and a repetition"):
            compare(arms, items, repetitions=repetitions)


def test_a_figure_says_where_it_was_measured() -> None:
    text = str(describe_machine())
    assert "thread" in text and "torch" in text and "UTC" in text
