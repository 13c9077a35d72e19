"""Training scenes as JSONL: questions with their right documents, and documents that are nearly right.

The layout is that of `tte train` (training/examples.py); pictures lie beside the file. A document is one item,
whichever question it stands with, so that what is right for one question is never taken for wrong by another. Knows
scenes and files; knows no model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tte_runtime.errors import OptionError
from tte_runtime.scenes.distractors import near_misses
from tte_runtime.scenes.draw import draw_picture, draw_scene
from tte_runtime.scenes.questions import KINDS, Answer, make_question
from tte_runtime.scenes.split import split_scene
from tte_runtime.scenes.world import Scene

STREAM = 7002
PICTURE_SIDE_PX = 112


def export_training(folder: Path, *, count: int, seed: int = 0, negatives: int = 2, traces: bool = False) -> Path:
    """Write `count` training questions, kinds in turn, each about a scene of its own, into a new folder.

    Args:
        folder: gets data.jsonl and pictures/.
        seed: of questions and drawings.
        negatives: near misses a question.
        traces: the teacher's own, which is the ground truth of the scenes.

    Returns:
        the file.

    Raises:
        OptionError: the folder is there already and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OptionError(f"{folder} exists and is not empty. Give a new folder.")
    (folder / "pictures").mkdir(parents=True)
    shown = _Shown(folder, seed, traces)
    lines: list[str] = []
    index = 0
    while len(lines) < count:
        rng = np.random.default_rng([STREAM, seed, index])
        index += 1
        scene = split_scene(rng, "train")
        question = make_question(KINDS[len(lines) % len(KINDS)], scene, rng, "train")
        if question is None:
            continue
        query: dict[str, Any] = {"text": question.text}
        if question.scene is not None:
            path = f"pictures/question_{len(lines):05d}.png"
            draw_scene(scene, rng).save(folder / path)
            query["image"] = path
        if traces:
            query["trace"] = question.trace
        wrong = near_misses(question, scene, rng, negatives)
        line = {"query": query, "positive": shown(question.answer), "negatives": [shown(answer) for answer in wrong]}
        lines.append(json.dumps(line) + "\n")
    file = folder / "data.jsonl"
    file.write_text("".join(lines), encoding="utf-8")
    return file


class _Shown:
    """Answers as items, each drawn once."""

    def __init__(self, folder: Path, seed: int, traces: bool) -> None:
        self._folder = folder
        self._rng = np.random.default_rng([STREAM, seed, 2**32])
        self._traces = traces
        self._items: dict[tuple[str, str], dict[str, Any]] = {}

    def __call__(self, answer: Answer) -> dict[str, Any]:
        key = (answer.medium, answer.value)
        if key not in self._items:
            item = {"text": answer.value} if answer.medium == "text" else {"image": self._draw(answer)}
            self._items[key] = {**item, "trace": answer.document_trace} if self._traces else item
        return self._items[key]

    def _draw(self, answer: Answer) -> str:
        path = f"pictures/document_{len(self._items):05d}.png"
        if answer.medium == "picture":
            image = draw_picture(answer.value, PICTURE_SIDE_PX, self._rng)
        else:
            image = draw_scene(Scene.parse(answer.value), self._rng)
        image.save(self._folder / path)
        return path
