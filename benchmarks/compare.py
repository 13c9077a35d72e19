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
from statistics import fmean
from typing import Any

import click

from benchmarks.core.command import PlainCommand
from benchmarks.core.results import ResultsError, Row, read_rows
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

    Raises:
        ResultsError: a row is none that a benchmark writes.
    """
    found: Samples = {}
    for number, row in enumerate(rows, start=1):
        for name, ms in _timed(_name(row, number), row):
            found[name] = ms
    return found


def _untimed(rows: list[Row]) -> list[str]:
    """Pieces of work whose latest row has no times."""
    latest = {_name(row, number): row for number, row in enumerate(rows, start=1)}
    return [name for name, row in latest.items() if not any(_timed(name, row))]


def _name(row: Row, number: int) -> str:
    """What was done: stage and key, and where rows have neither, as those of `tte eval scenes`, row and seed."""
    if "stage" in row and "key" in row:
        turns = _machine(row).get("turns")  # of benchmarks.tiny: the same ways under another clock
        return f"{row['stage']}/{row['key']}" + (f"/turns of one {turns}" if turns else "")
    if "row" in row and "seed" in row and "cost" in row:
        return f"scenes/{row['row']}/seed={row['seed']}"
    raise ResultsError(
        f"row {number} is no row of a benchmark: it must have stage and key (or row, seed and cost), "
        f"got {', '.join(row) or 'nothing'}. Name a file that a benchmark wrote."
    )


def _timed(name: str, row: Row) -> Iterator[tuple[str, list[float]]]:
    if not row.get("ok", "cost" in row):
        return
    cost = row.get("cost") or {}  # of scenes; None where a row was not timed
    ms = cost.get("ms", row.get("ms"))
    if isinstance(ms, list):
        known = [value for value in ms if value is not None]
        if known:
            yield name, known
    if row.get("totals"):  # seconds of whole requests
        yield name, [1000 * value for value in row["totals"]]
    if isinstance(row.get("seconds"), list) and row["seconds"]:  # a list a round, of seconds a question
        yield name, [1000 * fmean(values) for values in row["seconds"]]
    if "us_p20" in row:
        yield name, [row[f"us_{p}"] / 1000 for p in ("p20", "p50", "p80")]
    for way, figures in row.get("sides", {}).items():
        yield f"{name}/{way}", figures["ms"]
    cell = name.rpartition("/")[0]  # the last part names the ways that took part, which need not be the same ones
    for way, figures in row.get("ways", {}).items():
        if "ms" in figures:  # a way that failed its parity has none
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
    old, new = (_machine(rows[-1]) if rows else {} for rows in (before, after))
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [f"{name}: {old.get(name)} -> {new.get(name)}" for name in names]


def _machine(row: Row) -> dict[str, Any]:
    """What made a row; rows of scenes say it in one sentence, and some rows say nothing."""
    machine = row.get("machine", {})
    return machine if isinstance(machine, dict) else {"machine": machine}


@click.command(cls=PlainCommand, help=__doc__)
@click.argument("before", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("after", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--least", default=2.0, show_default=True, help="Percent; smaller changes are not shown.")
def main(before: Path, after: Path, least: float) -> None:
    files = {path: read_rows(path) for path in (before, after)}
    samples: list[Samples] = []
    untimed: dict[str, list[str]] = {}
    for what, path in (("before", before), ("after", after)):
        try:
            samples.append(samples_of(files[path]))
        except ResultsError as error:
            raise ResultsError(f"{path}: {error}") from error
        untimed[what] = _untimed(files[path])
    for line in _machines(files[before], files[after]):
        click.echo(line, err=True)
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
    for what, names in untimed.items():
        for name in names:
            click.echo(f"no times {what}: {name}", err=True)


if __name__ == "__main__":
    main()
