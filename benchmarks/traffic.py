"""What comes in under load: Poisson arrivals of questions about pictures of mixed sizes, some about boards seen before.

Seeded; every system under test is given the same arrivals. Knows no system.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.shapes import Shape
from benchmarks.workload import make_batch, sized

__all__ = ["Arrival", "Boards", "Traffic", "make_traffic"]

SIZES = (16, 36, 64)  # tokens of a picture
SHARED = 0.5  # of the questions are about one of the boards that others ask about too
SHARED_BOARDS = 3
BOARDS = 48  # that are drawn


@dataclass(frozen=True)
class Arrival:
    """A request: seconds after the start at which it is sent, whatever the system is doing then."""

    at: float
    item: dict[str, Any]


@dataclass(frozen=True)
class Traffic:
    """Interactive arrivals, and a corpus job beside them that does not end: `corpus(n)` is its item of that number."""

    arrivals: list[Arrival]
    corpus: Callable[[int], dict[str, Any]]


class Boards:
    """Questions about pictures that all differ, by number: cheap to make however many are asked for.

    `BOARDS` are drawn and resized once a size; each item is a copy of one with its number in the first pixel and in
    front of its words, so that no cache finds it, while the work is the same.
    """

    def __init__(self, shape: Shape, seed: int) -> None:
        self._shape, self._drawn = shape, make_batch(shape, SIZES[0], BOARDS, seed)
        self._sized = {
            size: [sized(item["image"], shape, size).convert("RGB") for item in self._drawn] for size in SIZES
        }

    def picture(self, number: int, size: int) -> Image.Image:
        """The picture of that number, of `size` tokens."""
        picture = self._sized[size][number % BOARDS].copy()
        picture.putpixel((0, 0), (number & 255, number >> 8 & 255, number >> 16 & 255))
        return picture

    def text(self, number: int) -> str:
        """The question of that number."""
        return f"{number}: {self._drawn[number % BOARDS]['text']}"


@lru_cache(maxsize=1)  # every system of a rate asks for it
def make_traffic(shape: Shape, rate: float, seconds: float, *, seed: int = 0) -> Traffic:
    """Arrivals of `rate` a second for so many seconds (open loop: they do not wait for answers), and a corpus job."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1 / rate, size=int(3 * rate * seconds) + 20))
    times = times[: max(1, int((times < seconds).sum()))]
    boards, count = Boards(shape, seed), len(times)
    arrivals = []
    for number, at in enumerate(times):
        size, shared = int(rng.choice(SIZES)), rng.random() < SHARED
        board = int(rng.integers(min(SHARED_BOARDS, count))) if shared else number
        arrivals.append(Arrival(float(at), {"text": boards.text(number), "image": boards.picture(board, size)}))

    def corpus(number: int) -> dict[str, Any]:
        picture = boards.picture(count + number, SIZES[number % len(SIZES)])
        return {"text": boards.text(count + number), "image": picture}

    return Traffic(arrivals, corpus)
