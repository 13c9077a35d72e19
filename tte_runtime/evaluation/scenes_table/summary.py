"""From what came of every seed to the figures of the table: Hit@1 with intervals, over seeds, and differences.

A question's value is the mean of its hits over the seeds that have the row; two rows are compared on the seeds that
have both. Knows results; knows no model and no layout of a page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tte_runtime.evaluation.scenes import judge_documents
from tte_runtime.evaluation.scenes_table.asking import Answers, Scenes, first_of_each
from tte_runtime.evaluation.scenes_table.bootstrap import Bootstrap, Interval, ratio_of_medians
from tte_runtime.evaluation.scenes_table.cost import Cost
from tte_runtime.evaluation.scenes_table.run import SeedResult
from tte_runtime.evaluation.scenes_table.systems import Probe
from tte_runtime.scenes.questions import COMPOSITIONAL, KINDS, SIMPLE, UNTRAINED, answer_words

GROUPS: dict[str, tuple[str, ...]] = {"compositional": COMPOSITIONAL, "simple": SIMPLE, "all": KINDS}
GROUPS |= {kind: (kind,) for kind in (*KINDS, *UNTRAINED)}


@dataclass(frozen=True)
class Verdict:
    """Of one row and seed, for each question asked: bool [n].

    Attributes:
        places: which questions those are, int64 [n].
        right: the first document is the answer.
        told: the answer that ends the trace is right.
        followed: the first document is the answer that ends the trace, right or wrong.
    """

    places: NDArray[np.int64]
    right: NDArray[np.bool_]
    told: NDArray[np.bool_]
    followed: NDArray[np.bool_]

    @classmethod
    def of(cls, answers: Answers, scenes: Scenes) -> Verdict:
        """Judge what was found."""
        tests = [scenes.tests[place] for place in answers.places]
        ends = [" ".join(answer_words(trace)) for trace in answers.traces]
        return cls(
            answers.places,
            judge_documents(tests, scenes.pool, answers.best),
            np.array([end == test.question.answer.value for end, test in zip(ends, tests, strict=True)], bool),
            np.array([scenes.pool[row].answer.value == end for row, end in zip(answers.best, ends, strict=True)], bool),
        )


class Summary:
    """Figures over seeds.

    Args:
        scenes: what was asked. part: questions a kind that points of curves were asked.
        seeds: what came of each. probes: the rows, in the order of the table.
    """

    def __init__(self, scenes: Scenes, part: int, seeds: Sequence[SeedResult], probes: Sequence[Probe]) -> None:
        self.scenes, self.part, self.seeds, self.probes = scenes, part, seeds, probes
        self._verdicts = {
            (result.seed, key): Verdict.of(answers, scenes)
            for result in seeds
            for key, answers in result.answers.items()
        }

    @cached_property
    def _whole(self) -> Bootstrap:
        return Bootstrap(self.scenes.kinds, GROUPS)

    @cached_property
    def _curve_places(self) -> list[int]:
        return first_of_each(self.scenes.tests, self.part, KINDS)

    @cached_property
    def _curve(self) -> Bootstrap:
        groups = {name: kinds for name, kinds in GROUPS.items() if name not in UNTRAINED}
        return Bootstrap([self.scenes.kinds[place] for place in self._curve_places], groups)

    def seeds_of(self, *keys: str) -> list[int]:
        """Seeds that have all of these rows."""
        return [one.seed for one in self.seeds if all((one.seed, key) in self._verdicts for key in keys)]

    def figure(self, key: str, what: str = "right") -> dict[str, Interval]:
        """Of a row asked all questions: Hit@1 by group, or the share of what else `Verdict` judges."""
        return self._whole.figure(self._values(key, self.seeds_of(key), what))

    def difference(self, key: str, other: str) -> dict[str, Interval] | None:
        """How much more a row has than another, by group; `None` where no seed has both."""
        seeds = self.seeds_of(key, other)
        if not seeds:
            return None
        return self._whole.difference(self._values(key, seeds), self._values(other, seeds))

    def on_curve(self, key: str) -> dict[str, Interval]:
        """Hit@1 by group on the questions that every point of a curve was asked."""
        seeds = self.seeds_of(key)
        asked = np.isin(self._verdicts[seeds[0], key].places, self._curve_places)
        return self._curve.figure(self._values(key, seeds)[asked])

    def of_seed(self, seed: int, key: str, group: str, *, curve: bool = False) -> float:
        """Hit@1 of one seed on all questions that the row was asked, or on those of curves."""
        verdict = self._verdicts[seed, key]
        asked = np.isin(verdict.places, self._curve_places) if curve else np.full(len(verdict.places), True)
        kinds = np.array(self.scenes.kinds)[verdict.places]
        return float(np.mean([verdict.right[asked & (kinds == kind)].mean() for kind in GROUPS[group]]))

    def _values(self, key: str, seeds: Sequence[int], what: str = "right") -> NDArray[np.float64]:
        """Of each question the mean over seeds, [n]."""
        return np.mean([getattr(self._verdicts[seed, key], what) for seed in seeds], axis=0)

    def cost(self, key: str) -> Cost | None:
        """A row's costs over seeds, questions one after the other; `None` where it was not timed."""
        costs = [one.costs[key] for one in self.seeds if key in one.costs]
        if not costs:
            return None
        names = ("trace", "computed", "cached", "head", "vision", "mflop")
        means = {name: float(np.mean([getattr(cost, name) for cost in costs])) for name in names}
        return Cost([ms for cost in costs for ms in cost.ms], **means)

    def slower(self, key: str, other: str) -> Interval | None:
        """How many times a row's median time is another's, paired by question; `None` where no seed timed both."""
        both = [one for one in self.seeds if key in one.costs and other in one.costs]
        if not both:
            return None
        over, under = ([ms for one in both for ms in one.costs[name].ms] for name in (key, other))
        return ratio_of_medians(np.array(over), np.array(under))

    def parameters(self, system: str) -> int | None:
        """Of a system; `None` where no seed has it."""
        found = [one.parameters[system] for one in self.seeds if system in one.parameters]
        return found[0] if found else None

    @property
    def missing(self) -> Mapping[tuple[int, str], str]:
        """(seed, system) -> why it is not there."""
        return {(one.seed, system): why for one in self.seeds for system, why in one.missing.items()}
