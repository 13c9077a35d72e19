"""Parity first, then time: ways of doing one piece of work, judged, and those that pass timed in turns.

A way that fails gets a reason and no time; nor does the first, which all are held against, when nobody agrees with
it. Knows callables and clocks; knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.core.statistics import Summary, paired_ratio
from tte_runtime.evaluation.compare import Arm, take_turns

__all__ = ["contest", "figures"]


def contest(
    arms: Sequence[Arm],
    item: Any,
    failures: Mapping[str, str],
    *,
    rounds: int,
    warmups: int = 1,
    on_call: Callable[[], None] = lambda: None,
) -> dict[str, tuple[float, ...]]:
    """Milliseconds of every round by arm, for the arms that are not among `failures` (name -> why).

    Args:
        arms: the first is the one that others are held against.
        item: what each embeds.
        rounds: timed. warmups: untimed rounds before them.
        on_call: after every call, for progress.
    """
    fit = [arm for arm in arms if arm.name not in failures]
    if (len(arms) > 1 and len(fit) < 2) or arms[0].name in failures:
        return {}
    for _ in range(warmups):
        take_turns(fit, item, 0, on_call)
    turns = [take_turns(fit, item, turn, on_call) for turn in range(rounds)]
    columns = zip(*turns, strict=True)
    return {arm.name: tuple(1000 * seconds for seconds in column) for arm, column in zip(fit, columns, strict=True)}


def figures(ms: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """For every arm its times, their summary, and how many times the first one's median its own is, with interval."""
    if not ms:
        return {}
    first = next(iter(ms.values()))
    found: dict[str, dict[str, Any]] = {}
    for name, values in ms.items():
        ratio = paired_ratio(values, first)
        found[name] = {
            "ms": [round(value, 4) for value in values],
            **Summary.of(values).to_json(),
            "ratio": [ratio.value, ratio.low, ratio.high],
        }
    return found
