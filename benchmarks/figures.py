"""Draws the pictures of docs/benchmarks.md from files of results, and from nothing else.

    python -m benchmarks.figures

Of a file the rows of its last machine and commit are drawn, which the picture names. A picture whose rows are not there
is not drawn, and the command says so. Knows rows and matplotlib; measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.core.command import PlainCommand
from benchmarks.core.machine import ROOT
from benchmarks.core.results import Row, last_run, read_rows

__all__ = ["COLOURS", "SOFT", "draw_ratios", "draw_roofline", "draw_waterfall", "main", "new_axes", "save"]

COLOURS = ("#0b6e6e", "#b3261e", "#c98a1b", "#5b6ee1", "#8a5a9e", "#4c4a45", "#98b8a8", "#d9a5a0", "#7fb3d5", "#b5b1a6")
INK, SOFT, LINE = "#1c1b19", "#63605a", "#e2ded5"
ORDER = (
    *("preprocess", "reasoner", "vision", "prefill", "generate", "decode", "second pass", "last forward"),
    *("readout", "host"),
)
SHOWN = 32  # tokens of a trace in the waterfall: of longer ones nothing but decoding can be seen


def new_axes(width: float, height: float, panels: int | None = None) -> tuple[Any, Any]:
    """A figure and its axes; a list of them where `panels` says how many."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    found = figure.subplots(1, panels or 1, squeeze=False)[0]
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, color=LINE, linewidth=0.7)
        axes.set_axisbelow(True)
    return figure, found if panels else found[0]


def save(figure: Any, path: Path) -> None:
    """Write a picture, with nothing in it that differs from run to run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _where(row: Row) -> str:
    machine = row["machine"]
    place = machine.get("threads")
    threads = "" if place is None else f", {place} thread{'s' * (place != 1)}"
    return f"{machine['device']}{threads}; torch {machine['torch']}; {machine['commit'][:7]}, {row['date'][:10]}"


def draw_waterfall(rows: Sequence[Row], path: Path) -> bool:
    """Milliseconds of one request by stage, a panel a shape, a bar a way; False where no row has them.

    Of a shape the last row with most ways is drawn, of traces of at most `SHOWN` tokens if there are any.
    """
    broken = [row for row in rows if row.get("ok") and row.get("breakdown")]
    broken.sort(key=lambda row: ((row["cell"]["trace"] or 0) <= SHOWN, len(row["breakdown"])))  # the last one counts
    latest = {row["shape"]: row for row in broken}
    if not latest:
        return False
    most = max(len(row["breakdown"]) for row in latest.values())
    figure, panels = new_axes(max(8.0, 4.5 * len(latest)), 1.5 + 0.55 * most, panels=len(latest))
    for axes, (shape, row) in zip(panels, latest.items(), strict=True):
        _stack(axes, row["breakdown"])
        cell = row["cell"]
        trace = "its own trace" if cell["trace"] is None else f"a trace of {cell['trace']} tokens"
        axes.set_title(f"{shape}\na picture of {cell['image']} tokens, {trace}", fontsize=9)
    figure.suptitle(_where(row), fontsize=8, color=SOFT)
    named = {label: mark for axes in panels for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    known = [stage for stage in ORDER if stage in named]
    figure.legend(
        [named[stage] for stage in known], known, loc="outside lower center", ncols=5, fontsize=8, frameon=False
    )
    save(figure, path)
    return True


def _stack(axes: Any, ways: dict[str, dict[str, float]]) -> None:
    """A bar a way, its stages end to end in milliseconds, its sum behind it."""
    longest = max(sum(stages.values()) for stages in ways.values())
    for place, stages in enumerate(reversed(ways.values())):
        left = 0.0
        for number, stage in enumerate(ORDER):
            if ms := stages.get(stage, 0.0):
                axes.barh(place, ms, left=left, color=COLOURS[number % len(COLOURS)], label=stage, height=0.62)
                left += ms
        axes.text(left + 0.01 * longest, place, f"{left:.1f}", va="center", fontsize=9)
    axes.set_yticks(range(len(ways)), list(reversed(ways)))
    axes.set_xlim(0, 1.12 * longest)
    axes.set_xlabel("ms of one request")


def draw_ratios(rows: Sequence[Row], path: Path) -> bool:
    """How many times our time each way takes, with its interval, over trace length: a line a batch, a panel a shape and
    picture for which there are two lengths.
    """
    panels: dict[str, dict[tuple[str, int], dict[float, list[float]]]] = {}
    last: Row | None = None
    for row in rows:
        for way, figures in row.get("ways", {}).items():
            if way != "ours" and "ratio" in figures:
                cell, trace = row["cell"], row["ways"]["ours"]["counts"]["trace"]
                panel = panels.setdefault(f"{row['shape']}, picture of {cell['image']} tokens", {})
                panel.setdefault((way, cell["batch"]), {})[trace] = figures["ratio"]
                last = row
    lengths = {name: {trace for points in panel.values() for trace in points} for name, panel in panels.items()}
    panels = {name: panel for name, panel in panels.items() if len(lengths[name]) > 1} or panels
    if last is None:
        return False
    figure, all_axes = new_axes(max(8.0, 4.2 * len(panels)), 4.0, panels=len(panels))
    ways = sorted({way for panel in panels.values() for way, _ in panel})
    batches = sorted({batch for panel in panels.values() for _, batch in panel})
    for axes, (name, panel) in zip(all_axes, panels.items(), strict=True):
        for (way, batch), points in sorted(panel.items()):
            traces = sorted(points)
            values = [points[trace][0] for trace in traces]
            below = [points[trace][0] - points[trace][1] for trace in traces]
            above = [points[trace][2] - points[trace][0] for trace in traces]
            style = {"marker": "os^Dv"[batches.index(batch) % 5], "color": COLOURS[ways.index(way) % len(COLOURS)]}
            axes.errorbar(traces, values, yerr=[below, above], capsize=2, label=f"{way}, batch {batch}", **style)
        axes.axhline(1, color=INK, linewidth=1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("tokens of the trace")
        axes.set_title(name, fontsize=9)
    all_axes[0].set_ylabel("times our time (over 1: we are faster)")
    figure.suptitle(_where(last), fontsize=8, color=SOFT)
    named = {label: mark for axes in all_axes for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    save(figure, path)
    return True


def draw_roofline(rows: Sequence[Row], path: Path) -> bool:
    """Every op's cases under the measured ceilings, a mark an op: our kernels where there are any, else torch forms."""
    measured = [row for row in rows if row.get("ok")]
    name = "ours" if any(row["way"] == "ours" for row in measured) else "torch form"
    latest = {row["key"]: row for row in measured if row["way"] == name and row["flops"] and row["us_p50"]}
    if not latest:
        return False
    figure, axes = new_axes(9, 4.6)
    ops = sorted({row["op"] for row in latest.values()})
    for number, op in enumerate(ops):
        own = [row for row in latest.values() if row["op"] == op]
        x = [row["flops"] / row["bytes"] for row in own]
        y = [row["tflop_per_s"] for row in own]
        axes.scatter(x, y, s=26, color=COLOURS[number % len(COLOURS)], marker="os^Dv<>p"[number % 8], label=op)
    last = next(reversed(latest.values()))
    bandwidth, peak = last["ceiling_gb_per_s"] / 1000, last["ceiling_tflop_per_s"]
    left = min(row["flops"] / row["bytes"] for row in latest.values()) / 2
    right = max(2 * peak / bandwidth, 2 * max(row["flops"] / row["bytes"] for row in latest.values()))
    axes.plot([left, peak / bandwidth, right], [left * bandwidth, peak, peak], color=INK, linewidth=1.2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations a byte that must move")
    axes.set_ylabel("TFLOP/s")
    axes.set_title(f"{name}, {last['dtype']}; {_where(last)}", fontsize=8, color=SOFT)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    save(figure, path)
    return True


def draw_load(rows: Sequence[Row], path: Path) -> bool:
    """Requests a second that met the objective, over those that came, a line a system; of the last row's objective."""
    timed = [row for row in rows if row.get("ok")]
    if not timed:
        return False
    last, found = timed[-1], dict[str, dict[float, float]]()
    for row in timed:
        if row["objective_ms"] == last["objective_ms"]:
            found.setdefault(row["system"], {})[len(row["ms"]) / row["seconds"]] = row["goodput"]
    figure, axes = new_axes(9, 4.0)
    for number, (system, points) in enumerate(found.items()):
        arrived = sorted(points)
        axes.plot(
            arrived, [points[one] for one in arrived], marker="os^Dv"[number % 5], color=COLOURS[number], label=system
        )
    most = max(max(points) for points in found.values())
    axes.plot([0, most], [0, most], color=LINE, linewidth=1.5)
    axes.set_xlabel("requests that arrived a second")
    axes.set_ylabel(f"answered within {last['objective_ms']:.0f} ms, a second")
    axes.set_title(_where(last), fontsize=8, color=SOFT)
    axes.legend(fontsize=8, frameon=False)
    save(figure, path)
    return True


PICTURES: dict[str, tuple[str, Callable[[Sequence[Row], Path], bool]]] = {
    "waterfall.png": ("embed.jsonl", draw_waterfall),
    "ratios.png": ("embed.jsonl", draw_ratios),
    "load.png": ("load.jsonl", draw_load),
    "roofline.png": ("ops.jsonl", draw_roofline),
}


@click.command(cls=PlainCommand, help=__doc__)
@click.option("--results", type=click.Path(path_type=Path), default=ROOT / "benchmarks" / "results")
@click.option("--pictures", type=click.Path(path_type=Path), default=ROOT / "docs" / "pictures" / "benchmarks")
def main(results: Path, pictures: Path) -> None:
    for name, (source, draw) in PICTURES.items():
        path = results / source
        if path.is_file() and draw(last_run(read_rows(path), path.stem), pictures / name):
            click.echo(pictures / name)
        else:
            click.echo(f"{name} is not drawn: {path} has no rows for it.", err=True)


if __name__ == "__main__":
    main()
