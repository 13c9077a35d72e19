"""tte-tiny on a CPU, from picture and words to the vector: ours against plain transformers, each with 1 and 2 threads.

    python -m benchmarks.tiny --per-kind 2 --rounds 9

Parity comes first: the same traces, vectors within 1e-5. Then all ways take turns with empty caches: question by
question, where each pays for processor caches and spinning threads that another left; and round by round, as services
that have a machine to themselves. The best of plain transformers' settings is what ours is held against. Tables to
stdout.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, get_args

import click
import torch
from tqdm.auto import tqdm

from benchmarks.core.command import PlainCommand
from benchmarks.core.machine import machine
from benchmarks.core.options import ROWS, Whole
from benchmarks.core.results import Results
from benchmarks.core.statistics import Summary, paired_ratio
from benchmarks.core.tables import markdown
from tte_runtime import Embedder
from tte_runtime.evaluation.compare import Arm, Comparison, Turns, compare
from tte_runtime.evaluation.plain import PlainEmbedder
from tte_runtime.evaluation.scenes import make_tests

__all__ = ["main"]


def _arms(stack: ExitStack, threads: list[int]) -> list[Arm]:
    """Ours with each number of threads on the engine's own thread, then transformers with each on the caller's."""
    arms = []
    for count in threads:
        embedder = stack.enter_context(Embedder.from_pretrained("tte-tiny", device="cpu", threads=count))

        def before(embedder: Embedder = embedder, count: int = count) -> None:
            torch.set_num_threads(count)
            embedder.clear_caches()

        arms.append(Arm(f"ours, {count} threads", partial(embedder.embed, role="query", think=True), before))
    plain = PlainEmbedder.from_pretrained("tte-tiny")
    for passes in ("two", "one"):
        for count in threads:
            call: Callable[[Any], Any] = partial(plain.embed, role="query", think=True, passes=passes)
            name = f"transformers, {passes} pass{'es' if passes == 'two' else ''}, {count} threads"
            arms.append(Arm(name, call, partial(torch.set_num_threads, count)))
    return arms


def table(found: Comparison) -> str:
    """A line a way, and how many times as long it takes as the fastest of ours."""
    timed = [arm for arm in found.arms if arm.seconds]
    rounds = {arm.name: [1000 * sum(row) / len(row) for row in arm.seconds] for arm in timed}
    ours = min((name for name in rounds if name.startswith("ours")), key=lambda name: Summary.of(rounds[name]).p50)
    lines = []
    for arm in found.arms:
        if arm.name not in rounds:
            lines.append([arm.name, "not timed: parity failed", "", f"{arm.parity.max_error:.1e}"])
            continue
        spread = Summary.of(rounds[arm.name])
        figure = f"{spread.p50:.1f} ({spread.least:.1f} to {spread.most:.1f})"
        ratio = str(paired_ratio(rounds[arm.name], rounds[ours]))
        lines.append([arm.name, figure, ratio, f"{arm.parity.max_error:.1e}"])
    return markdown(["way", "ms a question", f"times as long as {ours} [95 %]", "largest vector error"], lines)


@click.command(cls=PlainCommand, help=__doc__)
@click.option("--per-kind", default=2, show_default=True, type=click.IntRange(1), help="Questions of each kind.")
@click.option("--rounds", default=9, show_default=True, type=click.IntRange(1), help="Timed rounds.")
@click.option("--threads", type=Whole(least=1), default="1,2", show_default=True, help="Numbers of threads to try.")
@click.option("--turns", multiple=True, type=click.Choice(get_args(Turns)), help="Only these (repeatable).")
@click.option("--out", type=ROWS, help="Append the rows to this .jsonl file.")
def main(per_kind: int, rounds: int, threads: list[int], turns: tuple[Turns, ...], out: Path | None) -> None:
    items = [test.item for test in make_tests(per_kind)]
    turns = turns or get_args(Turns)
    files = {turn: Results(out, machine("cpu", per_kind=per_kind, turns=turn)) for turn in turns} if out else {}
    with ExitStack() as stack:
        arms = _arms(stack, threads)
        total = len(turns) * len(arms) * len(items) * (rounds + 1)
        bar = stack.enter_context(tqdm(total=total, unit="question", disable=None))
        found = {turn: compare(arms, items, repetitions=rounds, turns=turn, on_item=bar.update) for turn in turns}
    for turn, comparison in found.items():
        click.echo(f"## Turns of one {turn}\n\n{table(comparison)}\n")
        for arm in comparison.arms if turn in files else ():
            row = {"ok": arm.parity.holds, "max_error": arm.parity.max_error, "seconds": arm.seconds}
            files[turn].add("tiny", arm.name, row)
    sys.exit(0 if all(comparison.parity_holds for comparison in found.values()) else 1)


if __name__ == "__main__":
    main()
