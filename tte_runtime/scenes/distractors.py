"""Answers that are wrong but close: the hard negatives of training and of the test's pool.

Knows answers and scenes; nothing of batches or of how documents are embedded.
"""

from __future__ import annotations

import numpy as np

from tte_runtime.scenes import pictures
from tte_runtime.scenes.questions import Answer, Question
from tte_runtime.scenes.world import CELLS, Scene


def near_misses(question: Question, scene: Scene, rng: np.random.Generator, count: int) -> list[Answer]:
    """`count` different answers to `question` about `scene` that are wrong: another picture of the board,
    another category or cell, the scene before an edit, a board or description with one thing changed.
    """
    right = question.answer
    wrong: list[Answer] = []
    while len(wrong) < count:
        if right.medium == "picture":
            candidate = Answer("picture", scene.items[int(rng.integers(len(scene.items)))][1])
        elif question.kind == "category":
            names = pictures.names()
            candidate = Answer("text", pictures.categories()[names[int(rng.integers(len(names)))]])
        elif question.kind == "ground":
            candidate = Answer("text", CELLS[int(rng.integers(len(CELLS)))])
        elif question.kind == "replace" and not wrong:
            candidate = Answer("scene", scene.description)
        else:
            candidate = Answer(right.medium, disturbed(scene, rng).description)
        if candidate not in (right, *wrong):
            wrong.append(candidate)
    return wrong


def disturbed(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with one picture exchanged, moved to an empty cell, or replaced by a copy of another."""
    content = scene.content
    cell, name = scene.items[int(rng.integers(len(scene.items)))]
    form = int(rng.integers(3))
    if form == 0:
        names = [other for other in pictures.names() if other not in content.values()]
        content[cell] = names[int(rng.integers(len(names)))]
    elif form == 1:
        empty = [other for other in CELLS if other not in content]
        content[empty[int(rng.integers(len(empty)))]] = content.pop(cell)
    else:
        others = [other for _, other in scene.items if other != name]
        content[cell] = others[int(rng.integers(len(others)))]
    return Scene.of(content)
