"""Writes docs/measured.md: every table of the committed results, each with what it was measured on.

    python -m benchmarks.report

Of a file's rows those of its last machine, commit and versions are shown, because figures of two are no table. Knows
which command's table belongs to which file; measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click

from benchmarks import ablation, cpu, embed, formats, load, rivals
from benchmarks.core.command import PlainCommand
from benchmarks.core.machine import ROOT
from benchmarks.core.results import Row, last_run, read_rows
from benchmarks.core.tables import markdown

__all__ = ["main", "report"]

Table = Callable[[Sequence[Row]], str]


def _ops(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        memory = [f"{row['gb_per_s']:.1f}", f"{row['share_of_bandwidth']:.0%}"]
        sums = [f"{1000 * row['tflop_per_s']:.1f}", f"{row['share_of_flops']:.0%}"]
        lines.append([row["key"], f"{row['us_p50']:.1f}", *memory, *sums])
    return markdown(["op / case / way", "p50 us", "GB/s", "of reading", "GFLOP/s", "of a product"], lines)


def _embed(rows: Sequence[Row]) -> str:
    return f"{embed.table(rows)}\n\n{embed.breakdown(rows)}"


def _rivals(rows: Sequence[Row]) -> str:
    return "\n\n".join(f"{row['key']}\n\n{rivals.table(row)}" for row in rows)


TABLES: dict[str, tuple[str, Table]] = {
    "embed": ("One request and batches, end to end", _embed),
    "load": ("Under load", load.table),
    "ablation": ("What each technique earns", ablation.table),
    "ops": ("Ops", _ops),
    "cpu": ("A text model on a CPU, by weight format", cpu.table),
    "formats": ("What weight formats lose", lambda rows: formats.table({row["key"]: row for row in rows})),
    "rivals": ("Other engines", _rivals),
}


def report(results: Path) -> str:
    """The page, from all files of that folder."""
    source = "Written by `python -m benchmarks.report` from `benchmarks/results/`; see [benchmarks](benchmarks.md)."
    parts = ["# Measured", source]
    for name, (title, table) in TABLES.items():
        path = results / f"{name}.jsonl"
        rows = last_run(read_rows(path), name) if path.is_file() else []
        if not rows:
            continue
        where = ", ".join(f"{key} {value}" for key, value in rows[-1]["machine"].items())
        parts += [f"## {title}", f"{where}; {rows[-1]['date']}", table(rows)]
    return "\n\n".join(parts) + "\n"


@click.command(cls=PlainCommand, help=__doc__)
@click.option("--results", type=click.Path(path_type=Path), default=ROOT / "benchmarks" / "results")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=ROOT / "docs" / "measured.md")
def main(results: Path, out: Path) -> None:
    out.write_text(report(results), encoding="utf-8")
    click.echo(out)


if __name__ == "__main__":
    main()
