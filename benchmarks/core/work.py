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
    is recorded and raised, so that the next run starts behind it.
    """
    start = clock()
    with tqdm(total=len(items), unit="item", file=sys.stderr, disable=None) as bar:
        for number, item in enumerate(items, start=1):
            if results.get(item.stage, item.key) is None:
                if clock() - start >= budget:
                    return sum(results.get(left.stage, left.key) is None for left in items)
                row = _do(item, results)
                verdict = "ok" if row["ok"] else row["error"]
                bar.write(f"[{number}/{len(items)}] {item.stage} {item.key} {verdict}", file=sys.stderr)
            bar.update()
    return 0


def conclude(items: Sequence[Item], left: int, results: Results, table: Callable[[list[Row]], str]) -> NoReturn:
    """Print the table of what is done and end the command: 0 all well, 1 something failed, 3 work is left."""
    rows = [row for item in items if (row := results.get(item.stage, item.key))]
    click.echo(table(rows))
    if left:
        click.echo(f"{left} items left: run the same command again.", err=True)
        sys.exit(INCOMPLETE)
    sys.exit(int(not all(row["ok"] for row in rows)))


def _do(item: Item, results: Results) -> dict[str, Any]:
    try:
        row = results.add(item.stage, item.key, item.work())
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
