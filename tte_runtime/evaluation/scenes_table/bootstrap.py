"""Intervals by the paired bootstrap over questions (Efron 1979): questions are drawn again within their kinds, and
every row of a table is judged on the same draws, so that what makes a question hard cancels in a difference.

An interval says how sure a figure is with other questions of the same world. It does not cover other seeds of
training: their range is given beside it. Knows numbers only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
SEED = 0
INTERVAL = (0.025, 0.975)


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, draws: NDArray[np.float64]) -> Interval:
        """The percentiles of draws [R] around a figure."""
        low, high = np.quantile(draws, INTERVAL)
        return cls(float(value), float(low), float(high))


class Bootstrap:
    """Draws of questions, the same for every row.

    Args:
        kinds: of each question, in order, n of them.
        groups: name -> the kinds it is the unweighted mean of; each kind must have a question.
    """

    def __init__(self, kinds: Sequence[str], groups: Mapping[str, Sequence[str]]) -> None:
        rng = np.random.default_rng(SEED)
        every = np.array(kinds)
        self._groups = dict(groups)
        self._places = {kind: np.flatnonzero(every == kind) for kind in dict.fromkeys(kinds)}
        self._weights = {
            kind: rng.multinomial(len(places), np.full(len(places), 1 / len(places)), RESAMPLES) / len(places)
            for kind, places in self._places.items()
        }

    def figure(self, values: NDArray[np.float64]) -> dict[str, Interval]:
        """Of each group, the mean of values [n] and its interval."""
        means = {kind: float(values[places].mean()) for kind, places in self._places.items()}
        draws = {kind: self._weights[kind] @ values[places] for kind, places in self._places.items()}
        return {
            name: Interval.of(
                float(np.mean([means[kind] for kind in members])), np.mean([draws[kind] for kind in members], axis=0)
            )
            for name, members in self._groups.items()
        }

    def difference(self, values: NDArray[np.float64], other: NDArray[np.float64]) -> dict[str, Interval]:
        """Of each group, how much larger the mean of values [n] is than that of `other` [n], question by question."""
        return self.figure(values - other)


def ratio_of_medians(over: NDArray[np.float64], under: NDArray[np.float64]) -> Interval:
    """median(over) / median(under), where entry i of both [n] is of the same question."""
    drawn = np.random.default_rng(SEED).integers(len(over), size=(RESAMPLES, len(over)))
    draws = np.median(over[drawn], axis=1) / np.median(under[drawn], axis=1)
    return Interval.of(float(np.median(over) / np.median(under)), draws)
