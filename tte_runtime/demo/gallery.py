"""What the demo shows the model: questions of the test split, and a gallery that holds their answers among
others.

The questions and the pool are those of the evaluation (`tte_runtime.evaluation.scenes`), only fewer: nothing
in them occurred in training, and exactly one document is right for each question. Pure functions of a seed.
Knows nothing of models, vectors or HTML.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from tte_runtime.evaluation.scenes import Document, Test, make_pool, make_tests
from tte_runtime.scenes.questions import KINDS

ORDER = ("two_step", "one_step", "nested", "replace", "find", "name", "category", "ground", "describe")
assert sorted(ORDER) == sorted(KINDS)


def pose_questions(count: int, seed: int) -> list[Test]:
    """`count` held-out questions on different scenes: one a kind in turn, those that need steps first."""
    kinds = ORDER[:count]
    rounds = -(-count // len(ORDER))
    tests = make_tests(rounds, seed, kinds)
    return [tests[index % len(kinds) * rounds + index // len(kinds)] for index in range(count)]


def make_gallery(tests: list[Test], size: int, seed: int) -> list[Document]:
    """At least `size` documents in random order, the answers of `tests` and near misses among them.

    Every picture, category and cell is always there, so the smallest gallery has some 130 documents.
    """
    pool = make_pool(tests, seed, size)
    return [pool[index] for index in np.random.default_rng(seed).permutation(len(pool))]


def image_of(item: dict[str, Any]) -> Image.Image | None:
    """The picture of an item, RGB; `None` for words alone."""
    return item.get("image")


def is_answer(test: Test, document: Document) -> bool:
    """Whether a document is the right one."""
    return document.answer == test.question.answer
