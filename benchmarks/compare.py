"""What changed between two files of results beyond noise.

    python -m benchmarks.compare before.jsonl after.jsonl

Pairs the latest row of every piece of work in both files and bootstraps the ratio of the medians of their times. It
prints what changed by more than --least percent with an interval that excludes no change, and what only one file has.
Knows rows; knows no benchmark.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.core.results import Row, read_rows
from benchmarks.core.statistics import Interval, Summary, ratio_of
from benchmarks.core.tables import markdown

__all__ = ["Change", "changes", "main", "samples_of"]

Samples = dict[str, list[float]]


@dataclass(frozen=True)
class Change:
    """One figure of both files: medians in ms, and after over before."""

    name: str
    before: float
    after: float
    ratio: Interval

    def beyond(self, least: float) -> bool:
        """The interval excludes no change, and the change is at least that share."""
        return self.ratio.excludes(1.0) and abs(self.ratio.value - 1) >= least


def samples_of(rows: list[Row]) -> Samples:
    """Milliseconds of the latest row of every piece of work, those of its ways apart; rows without times are left out.

    A row of the GPU command has only percentiles of its replays, in microseconds: these three are its samples.
    """
    found: Samples = {}
    for row in rows:
        for name, ms in _timed(f"{row['stage']}/{row['key']}", row):
            found[name] = ms
    return found


def _timed(name: str, row: Row) -> Iterator[tuple[str, list[float]]]:
    if not row.get("ok", False):
        return
    if isinstance(row.get("ms"), list):
        known = [value for value in row["ms"] if value is not None]
        if known:
            yield name, known
    if row.get("totals"):  # seconds of whole requests
        yield name, [1000 * value for value in row["totals"]]
    if "us_p20" in row:
        yield name, [row[f"us_{p}"] / 1000 for p in ("p20", "p50", "p80")]
    for way, figures in row.get("sides", {}).items():
        yield f"{name}/{way}", figures["ms"]
    cell = name.rpartition("/")[0]  # the last part names the ways that took part, which need not be the same ones
    for way, figures in row.get("ways", {}).items():
        yield f"{cell}/{way}", figures["ms"]


def changes(before: Samples, after: Samples) -> list[Change]:
    """Of all that both have, the largest first."""
    found = [
        Change(name, Summary.of(old).p50, Summary.of(after[name]).p50, ratio_of(after[name], old))
        for name, old in before.items()
        if name in after
    ]
    return sorted(found, key=lambda change: -abs(change.ratio.value - 1))


def _machines(before: list[Row], after: list[Row]) -> list[str]:
    """What differs between the machines of the last rows."""
    old, new = (rows[-1]["machine"] if rows else {} for rows in (before, after))
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [f"{name}: {old.get(name)} -> {new.get(name)}" for name in names]


@click.command(help=__doc__)
@click.argument("before", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("after", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--least", default=2.0, show_default=True, help="Percent; smaller changes are not shown.")
def main(before: Path, after: Path, least: float) -> None:
    try:
        old, new = read_rows(before), read_rows(after)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    for line in _machines(old, new):
        click.echo(line, err=True)
    samples: tuple[Any, Any] = (samples_of(old), samples_of(new))
    found = changes(*samples)
    real = [change for change in found if change.beyond(least / 100)]
    lines = [
        [c.name, f"{c.before:.3f}", f"{c.after:.3f}", str(c.ratio), "slower" if c.ratio.value > 1 else "faster"]
        for c in real
    ]
    if lines:
        click.echo(markdown(["what", "before, ms", "after, ms", "after / before [95 %]", ""], lines))
    click.echo(f"{len(real)} of {len(found)} figures changed by {least:g} % or more beyond noise.")
    for name in sorted(samples[0].keys() ^ samples[1].keys()):
        click.echo(f"only {'before' if name in samples[0] else 'after'}: {name}", err=True)


if __name__ == "__main__":
    main()
