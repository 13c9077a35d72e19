"""What comes in under load: Poisson arrivals of questions about pictures of mixed sizes, some about boards seen before.

Seeded; every system under test is given the same arrivals. Knows no system.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from benchmarks.shapes import Shape
from benchmarks.workload import make_batch, sized

__all__ = ["Arrival", "Traffic", "make_traffic"]

SIZES = (16, 36, 64)  # tokens of a picture
SHARED = 0.5  # of the questions are about one of the boards that others ask about too
SHARED_BOARDS = 3


@dataclass(frozen=True)
class Arrival:
    """A request: seconds after the start at which it is sent, whatever the system is doing then."""

    at: float
    item: dict[str, Any]


@dataclass(frozen=True)
class Traffic:
    """Interactive arrivals, and items of a corpus job beside them."""

    arrivals: list[Arrival]
    corpus: list[dict[str, Any]]


@lru_cache(maxsize=1)  # every system of a rate asks for it
def make_traffic(shape: Shape, rate: float, seconds: float, *, corpus: int, seed: int = 0) -> Traffic:
    """Arrivals of `rate` a second for so many seconds (open loop: they do not wait for answers), and `corpus` items."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1 / rate, size=int(3 * rate * seconds) + 20))
    times = times[: max(1, int((times < seconds).sum()))]
    boards = make_batch(shape, SIZES[0], len(times) + corpus, seed)

    def shown(board: int, size: int) -> Any:
        return sized(boards[board]["image"], shape, size)

    arrivals = []
    for number, at in enumerate(times):
        size, shared = int(rng.choice(SIZES)), rng.random() < SHARED
        board = int(rng.integers(min(SHARED_BOARDS, len(times)))) if shared else number
        arrivals.append(Arrival(float(at), boards[number] | {"image": shown(board, size)}))
    job = range(len(times), len(times) + corpus)
    return Traffic(arrivals, [boards[n] | {"image": shown(n, SIZES[n % len(SIZES)])} for n in job])
