"""Cells, moves and scenes of the 4x4 board: what is where, as plain data.

A cell is called by its row letter (a-d, top to bottom) and its column digit (1-4, left to right), like on a
chess board. Knows nothing of pixels (draw.py) and nothing of what is asked (questions.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tte_runtime.scenes import pictures

ROWS = "abcd"
COLUMNS = "1234"
CELLS = tuple(row + column for row in ROWS for column in COLUMNS)
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
COUNTS = {1: "one", 2: "two", 3: "three"}
MIN_PICTURES, MAX_PICTURES = 5, 9


def move(cell: str, direction: str, count: int) -> str | None:
    """The cell `count` steps from `cell`, or None when that is off the board."""
    row_step, column_step = DIRECTIONS[direction]
    row = ROWS.index(cell[0]) + row_step * count
    column = COLUMNS.index(cell[1]) + column_step * count
    inside = 0 <= row < len(ROWS) and 0 <= column < len(COLUMNS)
    return ROWS[row] + COLUMNS[column] if inside else None


@dataclass(frozen=True)
class Scene:
    """A board's content: (cell, picture name) of the occupied cells, in reading order."""

    items: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, content: Mapping[str, str]) -> Scene:
        return cls(tuple((cell, content[cell]) for cell in CELLS if cell in content))

    @classmethod
    def parse(cls, description: str) -> Scene:
        """The scene that a description was made from, e.g. "a1 cat b3 car". ValueError when the words are
        not pairs.
        """
        words = description.split()
        return cls.of(dict(zip(words[::2], words[1::2], strict=True)))

    @property
    def content(self) -> dict[str, str]:
        return dict(self.items)

    @property
    def description(self) -> str:
        """The scene in words, e.g. "a1 cat b3 car"; two scenes are the same exactly when their descriptions
        are.
        """
        return " ".join(f"{cell} {name}" for cell, name in self.items)

    def cell_of(self, name: str) -> str:
        """Where the (first) picture called `name` is. KeyError when it is not on the board."""
        for cell, other in self.items:
            if other == name:
                return cell
        raise KeyError(f"no {name!r} in the scene {self.description!r}")

    def replaced(self, cell: str, name: str) -> Scene:
        """The scene with `name` at `cell`, all else as it was."""
        return Scene.of({**self.content, cell: name})


def sample_scene(rng: np.random.Generator) -> Scene:
    """A random scene of 5 to 9 different pictures."""
    count = int(rng.integers(MIN_PICTURES, MAX_PICTURES + 1))
    cells = rng.permutation(len(CELLS))[:count]
    chosen = rng.permutation(len(pictures.names()))[:count]
    names = pictures.names()
    return Scene.of({CELLS[cell]: names[name] for cell, name in zip(cells, chosen, strict=True)})
