"""Interleaved timing of several ways to embed the same items, of ways that were shown to agree first.

One untimed round warms everything up and is the parity check: the same trace ids, vectors within a tolerance.
A way that fails it is not timed at all, nor is the first when all others fail. Then every repetition runs
every item through every way, the order of the ways rotating, so that a machine that grows slow grows slow for
all. Ways take turns item by item, and each pays for caches and spinning threads that another left; or repetition by
repetition, each behind an untimed item of its own. Knows callables and clocks; knows nothing of models or of what is
printed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tte_runtime.errors import OptionError

TOLERANCE = 1e-5
Turns = Literal["item", "repetition"]


class Embedded(Protocol):
    """What a way of embedding returns: a vector [E] and the ids of its trace."""

    @property
    def vector(self) -> NDArray[np.float32]: ...
    @property
    def trace_ids(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Arm:
    """One way to embed an item.

    Attributes:
        name: for tables.
        embed: item -> what `compare` takes as `Embedded`, other judges as they like; this is what is timed.
        before: called before every `embed`, outside the clock: empties caches, for instance.
    """

    name: str
    embed: Callable[[Any], Any]
    before: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Parity:
    """How a way compares with the first one, over all items.

    Attributes:
        same_traces: items whose trace ids are equal. items: all items.
        max_error: largest absolute difference of any vector's element. tolerance: what it may be.
    """

    same_traces: int
    items: int
    max_error: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Every trace is equal, and every element within the tolerance (a NaN never is)."""
        return self.same_traces == self.items and self.max_error <= self.tolerance


@dataclass(frozen=True)
class Spread:
    """Median, least and largest of some repetitions."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Measured:
    """One way's figures.

    Attributes:
        name: the way's. parity: with the first way (the first with itself).
        seconds: [repetition][item]; empty where parity failed, and no figure may then be asked for.
        tokens: trace tokens of all items together.
    """

    name: str
    parity: Parity
    seconds: tuple[tuple[float, ...], ...]
    tokens: int

    @property
    def ms_per_item(self) -> Spread:
        """Milliseconds an item, the mean over items of each repetition."""
        return Spread.of([1000 * statistics.fmean(row) for row in self.seconds])

    @property
    def tokens_per_second(self) -> Spread:
        """Trace tokens a second, end to end: everything up to the vector counts as time."""
        return Spread.of([self.tokens / sum(row) for row in self.seconds])


@dataclass(frozen=True)
class Comparison:
    """All ways' figures, in the order given; the first is the one that the others are held against."""

    arms: tuple[Measured, ...]

    @property
    def parity_holds(self) -> bool:
        """Every way agrees with the first."""
        return all(arm.parity.holds for arm in self.arms)

    def times_slower(self, arm: Measured) -> Spread:
        """How many times as long as the first way a way takes, paired by repetition."""
        assert arm.seconds, "a way whose parity failed has no time"
        pairs = zip(arm.seconds, self.arms[0].seconds, strict=True)
        return Spread.of([sum(theirs) / sum(first) for theirs, first in pairs])


def compare(
    arms: Sequence[Arm],
    items: Sequence[Any],
    *,
    repetitions: int = 5,
    turns: Turns = "item",
    tolerance: float = TOLERANCE,
    on_item: Callable[[], None] = lambda: None,
) -> Comparison:
    """Check that all arms agree with the first, then time those that do.

    Args:
        arms: at least one; the first is the reference of parity and of ratios.
        items: what is embedded, at least one.
        repetitions: timed rounds after the untimed one.
        turns: what a way does before the next one's turn, one item or all of them.
        tolerance: largest absolute difference of a vector's element.
        on_item: called after every embedding, timed or not; for progress.

    Raises:
        OptionError: no arm, no item, or fewer than one repetition. Whatever an arm raises.
    """
    if not arms or not items or repetitions < 1:
        raise OptionError(
            f"a comparison needs an arm, an item and a repetition, got {len(arms)}, {len(items)} and {repetitions}."
        )
    first = _round(arms[0], items, on_item)
    rounds = [first, *(_round(arm, items, on_item) for arm in arms[1:])]
    parities = [_parity(first, outcomes, tolerance) for outcomes in rounds]
    timed = [index for index, parity in enumerate(parities) if parity.holds]
    if timed == [0] and len(arms) > 1:
        timed = []  # nobody agrees with the first: then its own time compares with nothing
    seconds: dict[int, list[tuple[float, ...]]] = {index: [] for index in range(len(arms))}
    for repetition in range(repetitions):
        chosen = [arms[index] for index in timed]
        if turns == "item":
            each = [take_turns(chosen, item, repetition + place, on_item) for place, item in enumerate(items)]
            rows = list(zip(*each, strict=True))
        else:
            rows = _whole_turns(chosen, items, repetition, on_item)
        for index, row in zip(timed, rows, strict=True):
            seconds[index].append(row)
    tokens = sum(len(outcome.trace_ids) for outcome in first)
    return Comparison(
        tuple(Measured(arm.name, parities[index], tuple(seconds[index]), tokens) for index, arm in enumerate(arms))
    )


def take_turns(
    arms: Sequence[Arm], item: Any, turn: int, on_item: Callable[[], None] = lambda: None
) -> tuple[float, ...]:
    """Seconds that each arm takes for one item, in the order of `arms`; arm `turn` (modulo their number) goes first."""
    seconds = [0.0] * len(arms)
    for index in range(turn, turn + len(arms)):
        arm = arms[index % len(arms)]
        seconds[index % len(arms)] = _time(arm, item)
        on_item()
    return tuple(seconds)


def _whole_turns(
    arms: Sequence[Arm], items: Sequence[Any], turn: int, on_item: Callable[[], None]
) -> list[tuple[float, ...]]:
    """Seconds of each item, by arm in the order of `arms`; each goes through all items behind an untimed one."""
    rows: list[tuple[float, ...]] = [()] * len(arms)
    for index in range(turn, turn + len(arms)):
        arm = arms[index % len(arms)]
        _time(arm, items[-1])
        rows[index % len(arms)] = tuple(_time(arm, item) for item in items)
        for _ in items:
            on_item()
    return rows


def _round(arm: Arm, items: Sequence[Any], on_item: Callable[[], None]) -> list[Embedded]:
    outcomes = []
    for item in items:
        arm.before()
        outcomes.append(arm.embed(item))
        on_item()
    return outcomes


def _parity(first: Sequence[Embedded], other: Sequence[Embedded], tolerance: float) -> Parity:
    same = sum(tuple(a.trace_ids) == tuple(b.trace_ids) for a, b in zip(first, other, strict=True))
    errors = [float(np.abs(a.vector - b.vector).max()) for a, b in zip(first, other, strict=True)]
    return Parity(same, len(first), float(np.max(errors)), tolerance)  # np.max keeps a NaN, max() may lose it


def _time(arm: Arm, item: Any) -> float:
    arm.before()
    started = time.perf_counter()
    arm.embed(item)
    return time.perf_counter() - started
