"""Serving under load: how many requests a second still meet a latency objective, a corpus job beside them.

    python -m benchmarks.load --rates 8,32,64,128,256 --seconds 6 --objective-ms 500

Requests arrive at random at a given rate, whatever the system does (open loop), so latency counts from when a request
was due. Every system gets the same arrivals, starts with empty caches, and was first shown to embed alike. Knows the
command line and the table.
"""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.core.command import PlainCommand
from benchmarks.core.machine import machine
from benchmarks.core.options import Amount, Rates, budget_option, out_option, place_options
from benchmarks.core.results import Results, Row
from benchmarks.core.tables import markdown
from benchmarks.core.work import Item, conclude, run_items
from benchmarks.shapes import SHAPES, check_room, folder_of, recipe_of
from benchmarks.systems import DynamicBatching, RuntimeSystem, System
from benchmarks.traffic import SIZES, Traffic, make_traffic
from benchmarks.ways import OURS, TWO_PASS, Loaded, Runtime
from benchmarks.workload import make_batch
from tte_runtime.config import EngineConfig
from tte_runtime.types import Think

__all__ = ["main", "play", "table"]

STAGE = "load"
HEADERS = (*("requests/s", "system", "within objective/s", "share", "p50 ms", "p95 ms", "p99 ms", "corpus items/s"),)
IN_WORK = 4  # corpus requests at any time
RATES = "8,32,64,128,256"  # of tte-tiny on a CPU: from what every system answers to what breaks all of them
SYSTEMS = {
    OURS: "this runtime",
    "ours, one at a time": "this runtime with max_batch_size=1",
    "ours, no prefix cache": "this runtime with prefix_cache=False",
    "dynamic batching": "plain transformers, two passes, whatever waits as one padded batch",
}


def play(
    system: System, traffic: Traffic, *, objective: float, seconds: float, in_work: int = IN_WORK
) -> dict[str, Any]:
    """Send the traffic and wait for what comes back, at most the objective beyond the last arrival.

    Args:
        objective: seconds a request may take. seconds: how long requests arrive, and the corpus job goes on.
        in_work: items of the job at any time.

    Returns:
        latencies in ms (None: not done in time to be known), and corpus items done a second.
    """
    latencies: list[float | None] = [None] * len(traffic.arrivals)
    finished, corpus_done = threading.Semaphore(0), 0
    numbers = itertools.count()  # each item once, and no end to them: what a system gets done is its own limit
    start = time.perf_counter()

    def next_of_corpus() -> None:
        nonlocal corpus_done
        corpus_done += 1
        if time.perf_counter() - start < seconds:
            system.submit(traffic.corpus(next(numbers)), "corpus", next_of_corpus)

    def done(number: int, due: float) -> None:
        latencies[number] = 1000 * (time.perf_counter() - due)
        finished.release()

    for _ in range(in_work):
        system.submit(traffic.corpus(next(numbers)), "corpus", next_of_corpus)
    for number, arrival in enumerate(traffic.arrivals):
        due = start + arrival.at
        time.sleep(max(0.0, due - time.perf_counter()))
        system.submit(arrival.item, "interactive", partial(done, number, due))
    corpus_rate = corpus_done / (time.perf_counter() - start)
    end = start + max(seconds, traffic.arrivals[-1].at) + objective
    for _ in traffic.arrivals:
        if not finished.acquire(timeout=max(0.0, end - time.perf_counter())):
            break
    known = list(latencies)
    system.drop()
    return {"ms": [None if ms is None else round(ms, 3) for ms in known], "corpus_per_s": corpus_rate}


def summary(ms: Sequence[float | None], *, objective_ms: float, seconds: float) -> dict[str, float | None]:
    """Goodput (requests a second within the objective), their share, and percentiles; unknown ones count as endless."""
    known = np.array([np.inf if value is None else value for value in ms])
    good = int((known <= objective_ms).sum())
    with np.errstate(invalid="ignore"):  # inf - inf, where the percentile lies among the endless
        points = np.percentile(known, [50, 95, 99], method="higher")
    percentiles = {f"p{name}": None if np.isinf(p) else float(p) for name, p in zip((50, 95, 99), points, strict=True)}
    return {"goodput": good / seconds, "share": good / len(known), **percentiles}


class Contest:
    """The systems, loaded once; loads when the first row is made.

    Args:
        shape, models, device, dtype: what is served, and where.
        trace: tokens of a trace. batch: most requests in work at once.
    """

    def __init__(self, shape: str, models: Path, *, device: str, dtype: str, trace: int, batch: int) -> None:
        self.shape, self.models, self.trace, self.batch = SHAPES[shape], models, trace, batch
        self.config = EngineConfig(device=device, dtype=dtype).resolve(model_context=2048, bytes_per_token=1)
        self._systems: dict[str, System] = {}
        self._failures: dict[str, str] = {}
        self._close: list[Loaded | Runtime] = []

    def items(self, rates: Sequence[float], *, seconds: float, objective_ms: float) -> Iterator[Item]:
        """One a rate and system, the order of the systems rotating."""
        config, names = self.config, list(SYSTEMS)
        where = f"{self.shape.name}/{config.device}/{config.dtype}/trace={self.trace}/batch={self.batch}"
        for turn, rate in enumerate(rates):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                key = f"{where}/rate={rate:g}/seconds={seconds:g}/objective={objective_ms:g}/{name}"
                yield Item(STAGE, key, partial(self._measure, name, rate, seconds, objective_ms))

    def _measure(self, name: str, rate: float, seconds: float, objective_ms: float) -> dict[str, Any]:
        if not self._systems:
            self._load()
        if name in self._failures:
            return {"ok": False, "error": self._failures[name], "system": name, "rate": rate}
        traffic = make_traffic(self.shape, rate, seconds)
        found = play(self._systems[name], traffic, objective=objective_ms / 1000, seconds=seconds)
        figures = summary(found["ms"], objective_ms=objective_ms, seconds=seconds)
        setting = {"shape": self.shape.name, "trace": self.trace, "objective_ms": objective_ms, "seconds": seconds}
        return {"ok": True, "error": "", "system": name, "rate": rate, **setting, **figures, **found}

    def _load(self) -> None:
        folder = folder_of(
            self.shape, self.models, image_tokens=0, device=self.config.device, dtype=self.config.torch_dtype
        )
        options: dict[str, Any] = {"device": self.config.device, "dtype": self.config.dtype}
        recipe = recipe_of(self.shape)
        loaded = Loaded(folder, recipe, **options, max_batch_size=self.batch)
        one = Runtime(folder, recipe, loaded.steering, **options, max_batch_size=1)
        uncached = Runtime(folder, recipe, loaded.steering, **options, max_batch_size=self.batch, prefix_cache=False)
        padded, _ = loaded.ways([TWO_PASS])
        names, runtimes = list(SYSTEMS), [loaded.runtime, one, uncached]
        ways = {name: runtime.way(name) for name, runtime in zip(names, runtimes, strict=False)}
        ways[names[-1]] = padded[TWO_PASS]
        batch = make_batch(self.shape, 36, 3)
        loaded.steering.unstoppable = True
        think = Think(max_tokens=self.trace) if self.trace else None
        self._failures, _ = loaded.judge(ways, batch, loaded.traces(batch, think))
        for way in ways.values():
            way.embed(batch, think)  # warm
        self._systems = {name: RuntimeSystem(runtime, think) for name, runtime in zip(names, runtimes, strict=False)}
        self._systems[names[-1]] = DynamicBatching(padded[TWO_PASS], think, self.batch)
        self._close = [loaded, one, uncached]
        gc.collect()
        gc.freeze()  # as a service should: a full collection takes a quarter of a second, for what never goes

    def close(self) -> None:
        """Stop the runtimes."""
        for one in self._close:
            one.close()
        gc.unfreeze()


def table(rows: Sequence[Row]) -> str:
    """What was measured, a line a rate and system."""
    lines = []
    for row in sorted(rows, key=lambda row: (row.get("rate", 0), list(SYSTEMS).index(row["system"]))):
        if not row["ok"]:
            lines.append([f"{row['rate']:g}", row["system"], f"not timed, {row['error']}", *[""] * 5])
            continue
        late = f"over {row['objective_ms']:.0f}"
        percentiles = [late if row[name] is None else f"{row[name]:.0f}" for name in ("p50", "p95", "p99")]
        good = [f"{row['goodput']:.2f}", f"{row['share']:.0%}"]
        lines.append([f"{row['rate']:g}", row["system"], *good, *percentiles, f"{row['corpus_per_s']:.2f}"])
    return markdown(HEADERS, lines)


@click.command(cls=PlainCommand, help=__doc__)
@click.option("--shape", type=click.Choice(list(SHAPES)), default="tte-tiny", show_default=True)
@click.option("--rates", type=Rates(), default=RATES, show_default=True, help="Requests a second, rising.")
@click.option("--seconds", default=8.0, show_default=True, type=Amount(), help="How long requests arrive at each rate.")
@click.option("--objective-ms", default=1000.0, show_default=True, type=Amount(), help="What a request may take.")
@click.option("--trace", default=16, show_default=True, type=click.IntRange(0), help="Tokens of every trace.")
@click.option("--batch", default=16, show_default=True, type=click.IntRange(1), help="Most requests in work at once.")
@place_options
@budget_option
@out_option("load.jsonl")
def main(
    shape: str,
    rates: list[float],
    seconds: float,
    objective_ms: float,
    trace: int,
    batch: int,
    device: str,
    dtype: str,
    models: Path,
    budget: float,
    out: Path,
) -> None:
    check_room(SHAPES[shape], image=max(SIZES), trace=trace)
    contest = Contest(shape, models, device=device, dtype=dtype, trace=trace, batch=batch)
    results = Results(out, machine(contest.config.device))
    todo = list(contest.items(rates, seconds=seconds, objective_ms=objective_ms))
    left = run_items(todo, results, budget)
    contest.close()
    conclude(todo, left, results, table)


if __name__ == "__main__":
    main()
