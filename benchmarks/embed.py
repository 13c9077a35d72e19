"""A request from picture and words to the vector, against plain transformers and against the physical limit.

    python -m benchmarks.embed --shape tte-tiny --image 16 --trace own --batch 1,8

Every cell of the grid is judged on fixed traces first; what fails is not timed. Then all ways take turns. Rows are
appended to --out as they come; the same command goes on where it stopped. Knows the command line and the table.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
from tqdm.auto import tqdm

from benchmarks.cell import Cell, measure
from benchmarks.core.command import PlainCommand
from benchmarks.core.machine import machine
from benchmarks.core.options import Whole, budget_option, out_option, place_options
from benchmarks.core.results import Results, Row
from benchmarks.core.tables import markdown
from benchmarks.core.work import INCOMPLETE, Item, run_items
from benchmarks.floor import measure_ceilings, sizes_of
from benchmarks.shapes import SHAPES, check_room, folder_of, recipe_of
from benchmarks.ways import DEFAULT_WAYS, OURS, WAYS, Loaded
from benchmarks.workload import make_batch
from tte_runtime.config import DTYPES, EngineConfig

__all__ = ["Grid", "items", "main", "table"]

STAGE = "embed"
HEADERS = (
    *("cell", "way", "p50 ms", "p95 ms", "p75 - p25", "times ours [95 %]", "floor / time", "tokens + head"),
    *("weights MiB", "peak MiB", "same traces"),
)


class Grid:
    """The cells of one shape on one device; loads the model when the first of them is measured.

    Args:
        shape: a name of `SHAPES`. ways: names of `WAYS`. head: random weights are read by one.
        cells: to measure. rounds: timed a cell. models: folder of checkpoints made here.
        device, dtype: resolved. options: of the engine.
    """

    def __init__(
        self,
        shape: str,
        cells: Sequence[Cell],
        *,
        ways: Sequence[str],
        rounds: int,
        models: Path,
        device: str,
        dtype: str,
        head: bool = False,
        **options: Any,
    ) -> None:
        self.shape, self.cells, self.ways, self.rounds, self.models = SHAPES[shape], cells, ways, rounds, models
        self.device, self.dtype, self.head, self.options = device, dtype, head, options
        self._loaded: Loaded | None = None
        self._folder: Path | None = None

    def items(self) -> Iterator[Item]:
        """One a cell."""
        for cell in self.cells:
            where = f"{self.label}/{self.device.split(':')[0]}/{self.dtype}"
            name = f"{where}/{cell}/{'+'.join(self.ways)}"
            yield Item(STAGE, name, partial(self._measure, cell))

    def _measure(self, cell: Cell) -> dict[str, Any]:
        loaded = self.load(cell.image)
        found, missing = loaded.ways(self.ways)
        sizes = sizes_of(loaded.plain.model, loaded.plain.head)
        ceilings = measure_ceilings(sizes, self.device, loaded.config.torch_dtype)
        batch, calls = make_batch(self.shape, cell.image, cell.batch), len(found) * (self.rounds + 1)
        measuring = partial(measure, loaded, found, batch, cell, sizes=sizes, ceilings=ceilings, rounds=self.rounds)
        with tqdm(total=calls, unit="call", desc=str(cell), leave=False, disable=None) as bar:
            row = measuring(on_call=bar.update)
        return row | {"shape": self.label, "dtype": self.dtype, "missing": missing}

    @property
    def label(self) -> str:
        """The shape's name, and whether a head reads it."""
        return self.shape.name + ("+head" if self.head else "")

    def load(self, image: int) -> Loaded:
        """The model, with a processor for pictures of so many tokens; it stays loaded until another is asked for."""
        dtype = DTYPES[self.dtype]
        folder = folder_of(self.shape, self.models, image_tokens=image, device=self.device, dtype=dtype)
        if folder != self._folder:
            self.close()
            recipe = recipe_of(self.shape, head=self.head)
            self._loaded = Loaded(folder, recipe, device=self.device, dtype=self.dtype, **self.options)
            self._folder = folder
        assert self._loaded is not None
        return self._loaded

    def close(self) -> None:
        """Let the model go."""
        if self._loaded is not None:
            self._loaded.close()
        self._loaded = self._folder = None


def table(rows: Sequence[Row]) -> str:
    """What was measured, a line a way; the reason where nothing was."""
    lines = []
    for row in rows:
        if "ways" not in row:
            lines.append([row["key"], row["error"], *[""] * 9])
            continue
        for name, way in row["ways"].items():
            where = f"{row['shape']} {row['dtype']} {_where(row['cell'])}"
            if "p50" not in way:
                lines.append([where, f"{name}: not timed, {way['error']}", *[""] * 9])
                continue
            low, high = way["ratio"][1:]
            ratio = "1" if name == OURS else f"{way['ratio'][0]:.2f} [{low:.2f}, {high:.2f}]"
            peak = "not known" if way["peak_mib"] is None else f"{way['peak_mib']:.0f}"
            tokens = f"{way['computed']:.0f}" + (f" + {way['head']:.0f}" if way["head"] else "")
            same, weights = f"{way['same_traces']:.0%}", f"{way['weights_mib']:.0f}"
            times = [f"{way[figure]:.1f}" for figure in ("p50", "p95", "spread")]
            lines.append([where, name, *times, ratio, f"{way['floor_share']:.0%}", tokens, weights, peak, same])
    return markdown(HEADERS, lines)


def breakdown(rows: Sequence[Row]) -> str:
    """Stages of one request of each way, milliseconds; they sum to its total."""
    lines = []
    for row in rows:
        for name, stages in row.get("breakdown", {}).items():
            words = ", ".join(f"{stage} {ms:.2f}" for stage, ms in stages.items())
            lines.append([f"{row['shape']} {_where(row['cell'])}", name, words, f"{sum(stages.values()):.2f}"])
    return markdown(["cell", "way", "stages, ms", "sum"], lines)


def _where(cell: dict[str, Any]) -> str:
    trace = "own" if cell["trace"] is None else cell["trace"]
    return f"image {cell['image']} trace {trace} batch {cell['batch']}"


def items(grids: Sequence[Grid]) -> list[Item]:
    """Of all grids, in order."""
    return [item for grid in grids for item in grid.items()]


@click.command(cls=PlainCommand, help=__doc__)
@click.option(
    "--shape", "shapes", type=click.Choice(list(SHAPES)), multiple=True, default=["tte-tiny"], show_default=True
)
@click.option("--image", type=Whole(), default="16", show_default=True, help="Tokens of a picture: 64,256,1024.")
@click.option("--trace", type=Whole(own=True), default="own", show_default=True, help="Tokens of a trace: own,0,32.")
@click.option("--batch", type=Whole(least=1), default="1", show_default=True, help="Requests at once: 1,8,32.")
@click.option("--ways", default=",".join(DEFAULT_WAYS), show_default=True, help=f"Of {', '.join(WAYS)}.")
@click.option("--head", is_flag=True, help="Random Qwen2-VL shapes read by a head over tapped states (TTE_u).")
@click.option("--rounds", default=9, show_default=True, type=click.IntRange(1), help="Timed rounds of a cell.")
@place_options
@budget_option
@out_option("embed.jsonl")
def main(
    shapes: tuple[str, ...],
    image: list[int],
    trace: list[int | None],
    batch: list[int],
    ways: str,
    head: bool,
    rounds: int,
    device: str,
    dtype: str,
    models: Path,
    budget: float,
    out: Path,
) -> None:
    config = EngineConfig(device=device, dtype=dtype).resolve(model_context=2048, bytes_per_token=1)
    names = ways.split(",")
    unknown = sorted(set(names) - set(WAYS))
    if unknown or names[0] != OURS:
        raise click.BadParameter(f"--ways must begin with {OURS} and be among {', '.join(WAYS)}, got {ways!r}.")
    cells = [Cell(i, t, b) for i in image for t in trace for b in batch]
    for shape in shapes:
        for cell in cells:
            check_room(SHAPES[shape], image=cell.image, trace=cell.trace)
    place: dict[str, Any] = {"models": models, "device": config.device, "dtype": config.dtype}
    grids = [Grid(shape, cells, ways=names, rounds=rounds, head=head, **place) for shape in shapes]
    results = Results(out, machine(config.device))
    todo = items(grids)
    left = run_items(todo, results, budget)
    for grid in grids:
        grid.close()
    rows = [row for item in todo if (row := results.get(item.stage, item.key))]
    click.echo(table(rows) + "\n\n" + breakdown(rows))
    for row in rows:
        for name, why in row.get("missing", {}).items():
            click.echo(f"{row['key']}: {name} is left out: {why}", err=True)
    if left:
        click.echo(f"{left} cells left: run the same command again.", err=True)
        sys.exit(INCOMPLETE)
    sys.exit(int(not all(row["ok"] for row in rows)))


if __name__ == "__main__":
    main()
