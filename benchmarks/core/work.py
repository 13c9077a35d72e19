"""Work that a later run continues: items, each done once, within a budget. Does not know what an item does."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import click
import torch
from tqdm.auto import tqdm

from benchmarks.core.results import Results, Row

__all__ = ["INCOMPLETE", "Item", "conclude", "run_items"]

INCOMPLETE = 3  # exit status: work is left, the same command goes on
EVERY = 10  # items after which the time that is left is said again


@dataclass(frozen=True)
class Item:
    """One piece of work: `work` returns what the row of (stage, key) says, `ok` among it."""

    stage: str
    key: str
    work: Callable[[], dict[str, Any]]


def run_items(
    items: Sequence[Item], results: Results, budget: float, clock: Callable[[], float] = time.monotonic
) -> int:
    """Does what is not done yet, until `budget` seconds have passed; returns how many items are left.

    An exception becomes the row's error, and the run goes on; one that has left the device unusable for this process
    is recorded and raised, so that the next run starts behind it. A row's `took_s` is how long its work took, and what
    the time that is left is guessed from.
    """
    start, todo = clock(), [item for item in items if results.get(item.stage, item.key) is None]
    done = len(items) - len(todo)
    print(f"{len(items)} items, {done} done, {len(todo)} to do; {budget:.0f} s from here on.", file=sys.stderr)
    with tqdm(total=len(items), initial=done, unit="item", file=sys.stderr, disable=None) as bar:
        for count, item in enumerate(todo):
            began = clock()
            if began - start >= budget:
                return len(todo) - count
            row = _do(item, results, began, clock)
            verdict = "ok" if row["ok"] else row["error"]
            bar.write(f"[{done + count + 1}/{len(items)}] {item.stage} {item.key} {verdict}", file=sys.stderr)
            if (count + 1) % EVERY == 0 and count + 1 < len(todo):
                bar.write(f"about {_seconds_left(todo[count + 1 :], results) / 60:.0f} min left", file=sys.stderr)
            bar.update()
    return 0


def _seconds_left(left: Sequence[Item], results: Results) -> float:
    """What the items will take if each takes its stage's mean so far; one of a stage not seen yet, everybody's."""
    seconds: dict[str, list[float]] = {}
    for stage in {item.stage for item in left}:
        seconds[stage] = [row["took_s"] for row in results.stage(stage).values() if "took_s" in row]
    known = [value for values in seconds.values() for value in values] or [0.0]
    means = {stage: sum(values or known) / len(values or known) for stage, values in seconds.items()}
    return sum(means[item.stage] for item in left)


def conclude(items: Sequence[Item], left: int, results: Results, table: Callable[[list[Row]], str]) -> NoReturn:
    """Print the table of what is done and end the command: 0 all well, 1 something failed, 3 work is left."""
    rows = [row for item in items if (row := results.get(item.stage, item.key))]
    click.echo(table(rows))
    if left:
        click.echo(f"{left} items left: run the same command again.", err=True)
        sys.exit(INCOMPLETE)
    sys.exit(int(not all(row["ok"] for row in rows)))


def _do(item: Item, results: Results, began: float, clock: Callable[[], float]) -> dict[str, Any]:
    try:
        values = item.work()
        row = results.add(item.stage, item.key, values | {"took_s": round(clock() - began, 3)})
    except Exception as error:
        row = results.add(item.stage, item.key, {"ok": False, "error": f"{type(error).__name__}: {error}"})
        if _device_is_lost():
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return row


def _device_is_lost() -> bool:
    """Whether every later call would fail too. Asked of the device: torch and Triton word errors differently."""
    if not torch.cuda.is_available():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
