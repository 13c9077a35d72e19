"""The headline picture: Hit@1 on held-out scenes over milliseconds a question, one curve a system.

    tte eval scenes --out runs/scenes && cp runs/scenes/scenes.jsonl benchmarks/results/
    python -m benchmarks.scenes

Points of a curve are limits on the trace, the last without one; bars reach from the least to the most of all seeds.
Milliseconds are those of the last run in which TTE_s was timed: rows of another run, on another day or machine, stand
by the time that TTE_s took beside them there.
Without rows nothing is drawn, and the command says so. Knows rows and matplotlib; measures nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import click

from benchmarks.core.command import PlainCommand
from benchmarks.core.machine import ROOT
from benchmarks.core.options import ROWS
from benchmarks.core.results import ResultsError, Row, read_rows
from benchmarks.figures import COLOURS, SOFT, new_axes, save

__all__ = ["Point", "curves", "draw", "main"]

GROUPS = {"compositional": "questions that need steps", "simple": "questions that need none"}
NO_LIMIT = "∞"
YARDSTICK = "tte_s"


@dataclass(frozen=True)
class Point:
    """One row of the table over seeds: mean, least and most of Hit@1 in %, and of the medians of milliseconds."""

    limit: int | None
    hits: tuple[float, float, float]
    ms: tuple[float, float, float]


def curves(rows: Sequence[Row], group: str) -> dict[str, list[Point]]:
    """Of every system that was timed its points, by title, in the order of limits. Controls are no points."""
    found: dict[str, dict[int | None, dict[int, Row]]] = {}
    scale = _scales(rows)
    titles = {row["system"]: row["title"] for row in rows if row["budget"] is None and row["control"] is None}
    for row in rows:
        if row["control"] is not None or row["system"] not in titles:
            continue
        before = found.get(titles[row["system"]], {}).get(row["budget"], {}).get(row["seed"])
        if row["cost"] is None and before is not None:  # asked anew, and not timed again
            row = row | {"cost": before["cost"], "date": before["date"]}
        if row["cost"] is not None:  # the latest row of a seed counts
            found.setdefault(titles[row["system"]], {}).setdefault(row["budget"], {})[row["seed"]] = row
    return {
        title: [
            Point(
                limit,
                _spread([100 * row["curve_hit_at_1"][group] for row in seeds.values()]),
                _spread([median(row["cost"]["ms"]) * scale.get(row["date"], 1.0) for row in seeds.values()]),
            )
            for limit, seeds in sorted(limits.items(), key=lambda entry: (entry[0] is None, entry[0] or 0))
        ]
        for title, limits in found.items()
    }


def _scales(rows: Sequence[Row]) -> dict[str, float]:
    """By the date of a run, what its milliseconds are multiplied by."""
    times: dict[str, list[float]] = {}
    for row in rows:
        if row["cost"] is not None and (row["system"], row["budget"], row["control"]) == (YARDSTICK, None, None):
            times.setdefault(row["date"], []).append(median(row["cost"]["ms"]))
    means = {date: fmean(values) for date, values in times.items()}
    return {date: means[max(means)] / mean for date, mean in means.items()}


def draw(rows: Sequence[Row], path: Path) -> bool:
    """Draw the picture; False where no row was timed."""
    if not curves(rows, "compositional"):
        return False
    figure, panels = new_axes(11, 5.2, panels=len(GROUPS))
    for axes, (group, name) in zip(panels, GROUPS.items(), strict=True):
        for number, (title, points) in enumerate(curves(rows, group).items()):
            hits, ms = ([getattr(point, what) for point in points] for what in ("hits", "ms"))
            axes.errorbar(
                [value for value, _, _ in ms],
                [value for value, _, _ in hits],
                xerr=_bars(ms),
                yerr=_bars(hits),
                marker="os^Dv<>p"[number % 8],
                color=COLOURS[number % len(COLOURS)],
                label=title,
                capsize=2,
                linewidth=1.2,
            )
            if group == "compositional" and len(points) > 1 and "decoder" in title:
                for point in points:
                    told = NO_LIMIT if point.limit is None else str(point.limit)
                    axes.annotate(told, (point.ms[0], point.hits[0]), (4, -9), textcoords="offset points", fontsize=7)
        axes.set_xlim(left=0)
        axes.set_ylim(0, 101)
        axes.set_xlabel("ms a question, alone, from empty caches")
        axes.set_title(name, fontsize=10)
    panels[0].set_ylabel("Hit@1, %")
    last = rows[-1]
    seeds = len({row["seed"] for row in rows})
    told = f"{last['data']['pool']} documents; {seeds} seed{'s' * (seeds != 1)}; {last['machine']}"
    figure.suptitle(told, fontsize=7, color=SOFT)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False
    )
    save(figure, path)
    return True


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return fmean(values), min(values), max(values)


def _bars(spreads: Sequence[tuple[float, float, float]]) -> list[list[float]]:
    """As matplotlib wants them: how far below and how far above."""
    return [[value - low for value, low, _ in spreads], [high - value for value, _, high in spreads]]


@click.command(cls=PlainCommand, help=__doc__)
@click.option("--results", type=ROWS, default=ROOT / "benchmarks" / "results" / "scenes.jsonl")
@click.option("--picture", type=ROWS, default=ROOT / "docs" / "pictures" / "scenes.png")
def main(results: Path, picture: Path) -> None:
    rows = read_rows(results) if results.is_file() else []
    for number, row in enumerate(rows, start=1):
        if not {"system", "title", "budget", "control", "cost", "seed", "data"} <= row.keys():
            raise ResultsError(f"{results}: row {number} is none of `tte eval scenes`. Name the scenes.jsonl it wrote.")
    if draw(rows, picture):
        click.echo(picture)
    else:
        click.echo(f"{picture.name} is not drawn: {results} has no rows that were timed.", err=True)


if __name__ == "__main__":
    main()
