"""From repeated times to figures: percentiles, spread, and bootstrap intervals of a ratio of medians.

Seeded, so that a file of results gives the same figures whenever it is read. Knows numbers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "Summary", "paired_ratio", "ratio_of"]

RESAMPLES = 4000
SEED = 0


@dataclass(frozen=True)
class Summary:
    """Some values of one quantity, in its own unit.

    Attributes:
        count: how many. p50, p95: percentiles, interpolated. least, most: extremes. spread: p75 - p25.
    """

    count: int
    p50: float
    p95: float
    least: float
    most: float
    spread: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """The summary of at least one value."""
        least, p25, p50, p75, p95, most = (float(x) for x in np.percentile(values, [0, 25, 50, 75, 95, 100]))
        return cls(len(values), p50, p95, least, most, p75 - p25)

    def to_json(self) -> dict[str, float]:
        """As a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """`value` lies outside the interval."""
        return not self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def paired_ratio(over: Sequence[float], under: Sequence[float]) -> Interval:
    """median(over) / median(under), where entry i of both was measured in round i: rounds are drawn together.

    The percentile bootstrap (Efron 1979) over rounds, so that what slows a whole round cancels.
    """
    assert len(over) == len(under), "pairs come from the same rounds"
    drawn = _draws(len(over), SEED)
    return _interval(over, drawn, under, drawn)


def ratio_of(over: Sequence[float], under: Sequence[float]) -> Interval:
    """median(over) / median(under) of two independent runs, each drawn by itself."""
    return _interval(over, _draws(len(over), SEED), under, _draws(len(under), SEED + 1))


def _draws(count: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))


def _interval(
    over: Sequence[float], draws_over: NDArray[np.int64], under: Sequence[float], draws_under: NDArray[np.int64]
) -> Interval:
    top, bottom = np.asarray(over, float), np.asarray(under, float)
    ratios = np.median(top[draws_over], axis=1) / np.median(bottom[draws_under], axis=1)
    low, high = (float(x) for x in np.quantile(ratios, [0.025, 0.975]))
    return Interval(float(np.median(top) / np.median(bottom)), low, high)
