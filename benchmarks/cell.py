"""One cell of the grid: every way judged on fixed traces, then timed, its memory, tokens, floor, and where time went.

Knows ways and floors; knows neither files nor tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.core.contest import contest, figures
from benchmarks.core.memory import peak_bytes
from benchmarks.floor import Ceilings, Sizes, floor_ms
from benchmarks.ways import OURS, Loaded, Way
from tte_runtime.evaluation.compare import Arm
from tte_runtime.types import Think

__all__ = ["Cell", "measure"]


@dataclass(frozen=True)
class Cell:
    """Where in the grid: tokens of the picture, of the trace (`None`: the model's own), and requests at once."""

    image: int
    trace: int | None
    batch: int

    def __str__(self) -> str:
        return f"image={self.image}/trace={'own' if self.trace is None else self.trace}/batch={self.batch}"


def measure(
    loaded: Loaded,
    ways: Mapping[str, Way],
    batch: list[Any],
    cell: Cell,
    *,
    sizes: Sizes,
    ceilings: Ceilings,
    rounds: int,
    on_call: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """A row of results for `ways`, the runtime's first.

    Returns:
        `ok` says whether all could be timed; "ways" has a failure or figures for each, "floor_ms" the stages of the
        least time, and "breakdown", where the batch is one request, its stages in every way's round of median total.
    """
    with loaded.steering.lengths(cell.trace) as think:
        traces = loaded.traces(batch, think)
        failures, errors = loaded.judge(ways, batch, traces)
        free = {name: _freely(loaded, way, batch, think, traces) for name, way in ways.items() if name not in failures}
        arms = [Arm(name, partial(way.embed, think=think), way.before) for name, way in ways.items()]
        ms = contest(arms, batch, failures, rounds=rounds, warmups=1, on_call=on_call)
        stages = {name: _stages(ways[name], batch, think, rounds) for name in ms if len(batch) == 1}
    row: dict[str, Any] = {
        "ok": bool(ms) and not failures,
        "error": "; ".join(f"{name}: {why}" for name, why in failures.items()),
        "cell": asdict(cell),
        "ways": {name: {"error": failures.get(name, "nobody agrees"), **errors[name]} for name in ways},
        "gb_per_s": ceilings.gb_per_s,
        "tflop_per_s": ceilings.tflop_per_s,
        "breakdown": stages,
    }
    if not ms:
        return row
    lengths = {name: free[OURS]["counts"][name] for name in ("prompt", "trace")}
    least = floor_ms(sizes, ceilings, batch=len(batch), image=cell.image, **lengths)
    for name, values in figures(ms).items():
        share = sum(least.values()) / values["p50"]
        weights = sizes.bytes_of_two if ways[name].bare else sizes.weight_bytes
        more = {"floor_share": share, "weights_mib": weights / 2**20}
        row["ways"][name] = errors[name] | free[name] | values | more
    return row | {"floor_ms": least}


def _freely(
    loaded: Loaded, way: Way, batch: list[Any], think: Think | None, traces: Sequence[tuple[int, ...]]
) -> dict[str, Any]:
    """A first free run: its rise of memory, how many traces are the given ones, tokens a request."""
    results: list[Any] = []
    way.before()
    peak = peak_bytes(lambda: results.extend(way.embed(batch, think)), loaded.config.device)
    same = sum(tuple(result.trace_ids) == trace for result, trace in zip(results, traces, strict=True))
    tokens = [getattr(result, "counts", result) for result in results]
    others = [result.reasoner_counts.computed for result in results if getattr(result, "reasoner_counts", None)]
    found: dict[str, Any] = {
        "same_traces": same / len(batch),
        "peak_mib": None if peak is None else peak / 2**20,
        "computed": float(np.mean([count.computed for count in tokens]) + (np.mean(others) if others else 0.0)),
        "head": float(np.mean([count.head for count in tokens])),
    }
    if way.name == OURS:
        found["counts"] = {name: float(np.mean([getattr(c, name) for c in tokens])) for name in ("prompt", "trace")}
    return found


def _stages(way: Way, batch: list[Any], think: Think | None, rounds: int) -> dict[str, float]:
    """Milliseconds by stage of the run with the median total, "host" being what no stage accounts for."""
    runs = []
    for _ in range(max(1, rounds // 2) * 2 - 1):
        way.before()
        started = perf_counter()
        results = way.embed(batch, think)
        total = 1000 * (perf_counter() - started)
        spent = way.spent(results)
        runs.append((total, spent | {"host": total - sum(spent.values())}))
    middle = median(total for total, _ in runs)
    return next(stages for total, stages in runs if total == middle)
