"""How much thinking is enough: Hit@1 of tte-tiny on held-out scenes against the tokens spent on traces.

    python -m benchmarks.thinking --out benchmarks/results/thinking.jsonl --picture docs/pictures/thinking.png

Three ways to spend them: a limit on the trace, a trace that ends once its vector has settled, and several sampled
traces whose vectors are averaged. Results are appended to OUT as they come; the same command goes on where it was
stopped. Progress goes to stderr, the table to stdout. Times nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.core.command import PlainCommand
from benchmarks.core.machine import machine
from benchmarks.core.options import Amount, out_option
from benchmarks.core.results import Results, Row
from benchmarks.core.tables import markdown
from benchmarks.core.work import Item, conclude, run_items
from tte_runtime import Embedder, Think
from tte_runtime.evaluation.scenes import Document, Test, judge_retrieval, make_pool, make_tests

__all__ = ["WAYS", "draw", "main"]

TEMPERATURE = 0.7  # of several traces; one trace is greedy
WAYS: dict[str, dict[str, Think | bool]] = {
    "limit": {
        "0": False,
        **{str(most): Think(max_tokens=most) for most in (2, 4, 6, 8, 12, 16, 24)},
        "none": True,
    },
    "settled": {
        str(cosine): Think(snapshot_every=2, stop_cosine=cosine) for cosine in (0.5, 0.8, 0.9, 0.95, 0.99, 0.995)
    },
    "traces": {str(count): Think(num_traces=count, temperature=TEMPERATURE, seed=1) for count in (1, 2, 4, 8)},
}
TICKS = (0, 2, 4, 6, 8, 16, 32, 64, 128)
OFFSETS = {"limit": (-12, 4), "settled": (5, -3), "traces": (0, 6)}
LABELS = {
    "limit": "a limit on the trace",
    "settled": "ends when the vector has settled",
    "traces": f"1, 2, 4, 8 traces, T = {TEMPERATURE}",
}


def measure(embedder: Embedder, tests: Sequence[Test], pool: Sequence[Document], documents: Any, think: Any) -> Any:
    """Hit@1 by kind and overall, and tokens spent a question: trace and what snapshots fed."""
    results = embedder.embed([test.item for test in tests], role="query", think=think, priority="corpus")
    hits = judge_retrieval(tests, pool, results, documents)
    spent = [result.counts.trace + result.counts.snapshots for result in results]
    return {
        "ok": True,
        "hit_at_1": hits,
        "mean_hit_at_1": float(np.mean(list(hits.values()))),
        "trace_tokens": float(np.mean([result.counts.trace for result in results])),
        "snapshot_tokens": float(np.mean([result.counts.snapshots for result in results])),
        "spent_tokens": float(np.mean(spent)),
        "forced": sum(result.finish_reason == "forced" for result in results) / len(results),
    }


def table(rows: Sequence[Row]) -> str:
    """What was measured, a way and setting a line."""
    lines = [
        [row["key"], f"{row['spent_tokens']:.1f}", f"{row['trace_tokens']:.1f}", f"{100 * row['mean_hit_at_1']:.1f} %"]
        for row in rows
        if row["ok"]
    ]
    return markdown(["way", "tokens spent", "of the trace", "Hit@1, mean over kinds"], lines)


def draw(results: Results, path: Path) -> None:
    """The picture: Hit@1 over tokens spent, a curve a way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for way, settings in WAYS.items():
        rows = [(name, results.get("thinking", f"{way} {name}")) for name in settings]
        points = [(row["spent_tokens"], 100 * row["mean_hit_at_1"], name) for name, row in rows if row and row["ok"]]
        if points:
            axes.plot([x for x, _, _ in points], [y for _, y, _ in points], marker="o", label=LABELS[way])
            for x, y, name in points:
                axes.annotate(name, (x, y), textcoords="offset points", xytext=OFFSETS[way], fontsize=7)
    axes.set_xscale("symlog", linthresh=8)
    axes.set_xticks(TICKS, [str(tick) for tick in TICKS])
    axes.set_xlabel("tokens spent a question, forced tokens of snapshots included")
    axes.set_ylabel("Hit@1 in %, mean over kinds")
    axes.set_title("tte-tiny on held-out scenes")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=150)


@click.command(cls=PlainCommand, help=__doc__)
@out_option("thinking.jsonl")
@click.option("--picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw the curves here.")
@click.option(
    "--per-kind", default=100, show_default=True, type=click.IntRange(1), help="Held-out questions of each kind."
)
@click.option("--pool", default=1000, show_default=True, type=click.IntRange(1), help="Documents at least.")
@click.option(
    "--budget",
    default=3600.0,
    show_default=True,
    type=Amount(zero=True),
    help="Seconds; what is left is done by the next run.",
)
def main(out: Path, picture: Path | None, per_kind: int, pool: int, budget: float) -> None:
    """The command; see the module."""
    tests = make_tests(per_kind)
    documents = make_pool(tests, size=pool)
    results = Results(out, machine("cpu", per_kind=per_kind, pool=len(documents)))
    with Embedder.from_pretrained("tte-tiny") as embedder:
        vectors = embedder.embed(
            [one.item for one in documents], role="document", priority="corpus", show_progress_bar=True
        )
        items = [
            Item("thinking", f"{way} {name}", partial(measure, embedder, tests, documents, vectors, think))
            for way, settings in WAYS.items()
            for name, think in settings.items()
        ]
        left = run_items(items, results, budget)
    if picture is not None and results.stage("thinking"):
        draw(results, picture)
    conclude(items, left, results, table)


if __name__ == "__main__":
    main()
