"""What is embedded: held-out questions of the bundled model's world about pictures of a wanted number of tokens.

Seeded: the same arguments give the same items, each with a text of its own. Knows nothing of models.
"""

from __future__ import annotations

import math
from typing import Any

from PIL import Image

from benchmarks.shapes import Shape
from tte_runtime.evaluation.scenes import make_tests

__all__ = ["make_batch", "sized"]

KINDS = ("two_step", "one_step", "nested", "name")  # all about a board


def make_batch(shape: Shape, image_tokens: int, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """`count` questions, each about a board of its own with `image_tokens` merged tokens; 0 leaves the board out."""
    tests = make_tests(-(-count // len(KINDS)), seed, KINDS)
    batch: dict[str, dict[str, Any]] = {}
    for number, test in enumerate(tests):
        text = test.question.text
        text = f"{number}: {text}" if text in batch else text
        batch[text] = {"text": text}
        if image_tokens:
            batch[text]["image"] = sized(test.item["image"], shape, image_tokens)
    return list(batch.values())[:count]


def sized(image: Image.Image, shape: Shape, tokens: int) -> Image.Image:
    """The picture with the sides that make so many tokens, as nearly square as the number allows."""
    rows = next(side for side in range(math.isqrt(tokens), 0, -1) if tokens % side == 0)
    size = (tokens // rows * shape.pixels_a_token, rows * shape.pixels_a_token)
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
