"""Exercises that only training uses: the small look-ups of a trace, many to a sequence, in random order.

Each word is marked as asked (loss) or given (no loss: it is random and cannot be known). "name": cell ->
picture; "find": picture -> cell; "walk": cell and move -> cell; "kind": picture -> category. Without this
dense supervision the decoder learns the form of a trace long before it recognises anything. Knows nothing
of the questions of the test.
"""

from __future__ import annotations

import numpy as np

from tte_runtime.scenes import pictures
from tte_runtime.scenes.world import CELLS, COUNTS, DIRECTIONS, Scene, move

DRILLS = ("name", "find", "walk", "kind")
WITH_SCENE = ("name", "find")
PROMPT = {
    "name": "tell the name at each cell",
    "find": "tell the cell of each name",
    "walk": "walk on the board",
    "kind": "tell the kind of each name",
}
WALK_STEPS, KIND_NAMES = 10, 12
Word = tuple[str, bool]


def _walk(rng: np.random.Generator) -> list[Word]:
    """A random walk: "b3 ; one right b4 ; two down d4"; only the cells reached are asked."""
    cell = CELLS[int(rng.integers(len(CELLS)))]
    words: list[Word] = [(cell, False)]
    for _ in range(WALK_STEPS):
        moves = [(direction, count) for direction in DIRECTIONS for count in COUNTS if move(cell, direction, count)]
        direction, count = moves[int(rng.integers(len(moves)))]
        reached = move(cell, direction, count)
        assert reached is not None
        cell = reached
        words += [(";", False), (COUNTS[count], False), (direction, False), (cell, True)]
    return words


def drill(kind: str, scene: Scene, rng: np.random.Generator) -> list[Word]:
    """The words of one exercise, `<think>` first and the asked ones marked. Scenes are ignored by "walk"
    and "kind".
    """
    words: list[Word] = []
    if kind == "name":
        content = scene.content
        for index in rng.permutation(len(CELLS)):
            words += [(CELLS[index], False), (content.get(CELLS[index], "empty"), True)]
    elif kind == "find":
        for index in rng.permutation(len(scene.items)):
            cell, name = scene.items[index]
            words += [(name, False), (cell, True)]
    elif kind == "walk":
        words = _walk(rng)
    else:
        assert kind == "kind", f"unknown drill {kind}"
        for index in rng.permutation(len(pictures.names()))[:KIND_NAMES]:
            name = pictures.names()[index]
            words += [(name, False), (pictures.categories()[name], True)]
    return [("<think>", True), *words]
