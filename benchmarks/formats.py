"""What each weight format costs and brings on a CPU: tte-tiny's vectors, traces, Hit@1 and time in every one.

    python -m benchmarks.formats --per-kind 100 --pool 1000

Vectors are compared with those of float32, each format having written its own traces; then the formats take turns at
single questions, in another order each round. Progress to stderr, the table to stdout.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from tqdm.auto import tqdm

from benchmarks.core.command import PlainCommand
from benchmarks.core.machine import machine
from benchmarks.core.options import ROWS
from benchmarks.core.results import Results
from benchmarks.core.statistics import Summary
from benchmarks.core.tables import markdown
from tte_runtime import Embedder
from tte_runtime.evaluation.scenes import Document, Test, judge_retrieval, make_pool, make_tests

__all__ = ["FORMATS", "losses", "main", "times"]

FORMATS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "w8a8": {"dtype": "float32", "weights": "w8a8"},
}


def losses(embedders: dict[str, Embedder], tests: Sequence[Test], pool: Sequence[Document]) -> dict[str, Any]:
    """A row a format: cosine of its questions' vectors with the first format's, traces equal to it, and Hit@1."""
    rows, first = {}, None
    for name, embedder in tqdm(embedders.items(), unit="format", disable=None):
        documents = embedder.embed([one.item for one in pool], role="document", priority="corpus")
        questions = embedder.embed([test.item for test in tests], role="query", think=True, priority="corpus")
        vectors = np.stack([one.vector for one in questions])
        first = first or (vectors, questions)
        cosines = (vectors * first[0]).sum(1)
        same = [ours.trace_ids == theirs.trace_ids for ours, theirs in zip(questions, first[1], strict=True)]
        hits = judge_retrieval(tests, pool, questions, documents)
        rows[name] = {
            "ok": True,
            "cosine_mean": float(cosines.mean()),
            "cosine_least": float(cosines.min()),
            "cosine_of_same_traces": float(cosines[same].mean()) if any(same) else None,
            "same_traces": float(np.mean(same)),
            "hit_at_1": hits,
            "mean_hit_at_1": float(np.mean(list(hits.values()))),
        }
    return rows


def times(embedders: dict[str, Embedder], tests: Sequence[Test], rounds: int) -> dict[str, list[float]]:
    """Milliseconds a question of every round, each format with empty caches, one question at a time."""
    names = list(embedders)
    spent: dict[str, list[float]] = {name: [] for name in names}
    for number in tqdm(range(rounds), unit="round", disable=None):
        for turn in range(len(names)):
            name = names[(number + turn) % len(names)]
            embedder, total = embedders[name], 0.0
            for test in tests:
                embedder.clear_caches()
                started = time.perf_counter()
                embedder.embed(test.item, role="query", think=True)
                total += time.perf_counter() - started
            spent[name].append(1000 * total / len(tests))
    return spent


def table(rows: dict[str, Any]) -> str:
    """A line a format."""
    lines = []
    for name, row in rows.items():
        same, spread = row["cosine_of_same_traces"], Summary.of(row["ms"])
        lines.append(
            [
                name,
                f"{spread.p50:.1f} ({spread.least:.1f} to {spread.most:.1f})",
                f"{row['cosine_mean']:.5f}",
                f"{row['cosine_least']:.5f}",
                "none" if same is None else f"{same:.6f}",
                f"{row['same_traces']:.1%}",
                f"{row['mean_hit_at_1']:.1%}",
            ]
        )
    headers = ["format", "ms a question", "cosine with float32", "least", "on equal traces", "equal traces", "Hit@1"]
    return markdown(headers, lines)


@click.command(cls=PlainCommand, help=__doc__)
@click.option("--per-kind", default=100, show_default=True, type=click.IntRange(1), help="Questions of each kind.")
@click.option("--pool", default=1000, show_default=True, type=click.IntRange(1), help="Documents at least.")
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1), help="Timed rounds.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="Of torch.")
@click.option("--out", type=ROWS, help="Append the rows to this .jsonl file.")
def main(per_kind: int, pool: int, rounds: int, threads: int, out: Path | None) -> None:
    torch.set_num_threads(threads)
    tests = make_tests(per_kind)
    documents = make_pool(tests, size=pool)
    results = Results(out, machine("cpu", per_kind=per_kind, pool=len(documents), threads=threads)) if out else None
    with ExitStack() as stack:
        embedders = {
            name: stack.enter_context(Embedder.from_pretrained("tte-tiny", device="cpu", **options))
            for name, options in FORMATS.items()
        }
        rows = losses(embedders, tests, documents)
        for name, spent in times(embedders, make_tests(2), rounds).items():
            rows[name]["ms"] = [round(value, 4) for value in spent]
    click.echo(table(rows))
    if results is not None:
        for name, row in rows.items():
            results.add("formats", name, row)


if __name__ == "__main__":
    main()
