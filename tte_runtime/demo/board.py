"""A trace drawn over the board: which cells get an outline with which numbers, and which arrows connect them.

Plain geometry in the pixels of an unscaled board, shared by the page and by the README's figure. Knows cells
and steps; knows nothing of SVG or PIL.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tte_runtime.demo.steps import Reading
from tte_runtime.scenes.draw import CELL_PX
from tte_runtime.scenes.world import COLUMNS, ROWS

ARROW_START_PX, ARROW_END_PX = 14, 18  # left free around the centres of the two cells


@dataclass(frozen=True)
class Mark:
    """An outlined cell: its top left corner in pixels, and the steps that named it ("1, 3") or "answer"."""

    cell: str
    x: int
    y: int
    label: str


@dataclass(frozen=True)
class Arrow:
    """A move from one cell to another, in pixels, a little short of both centres."""

    x1: float
    y1: float
    x2: float
    y2: float


def marks(reading: Reading) -> list[Mark]:
    """One mark a cell, in the order in which the trace named them."""
    labels: dict[str, list[str]] = {}
    for number, step in enumerate(reading.steps, start=1):
        if step.cell is not None:
            labels.setdefault(step.cell, []).append(str(number))
    if reading.answer_cell is not None:
        labels.setdefault(reading.answer_cell, []).append("answer")
    return [Mark(cell, *corner(cell), ", ".join(label)) for cell, label in labels.items()]


def arrows(reading: Reading) -> list[Arrow]:
    """One arrow for every step that walks on from the one before."""
    found = []
    for before, step in zip(reading.steps, reading.steps[1:], strict=False):
        if step.moves and step.cell is not None and before.cell is not None and step.cell != before.cell:
            found.append(_arrow(before.cell, step.cell))
    return found


def corner(cell: str) -> tuple[int, int]:
    """The top left corner of a cell, (x, y)."""
    return COLUMNS.index(cell[1]) * CELL_PX, ROWS.index(cell[0]) * CELL_PX


def _arrow(first: str, second: str) -> Arrow:
    (x1, y1), (x2, y2) = ((x + CELL_PX / 2, y + CELL_PX / 2) for x, y in (corner(first), corner(second)))
    length = math.hypot(x2 - x1, y2 - y1)
    dx, dy = (x2 - x1) / length, (y2 - y1) / length
    return Arrow(x1 + ARROW_START_PX * dx, y1 + ARROW_START_PX * dy, x2 - ARROW_END_PX * dx, y2 - ARROW_END_PX * dy)
