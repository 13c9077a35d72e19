"""A few threads that go through one compiled call together. Knows threads; knows nothing of what they compute."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

WORTH_DIVIDING = 24e6  # see `Team.size_for`: 2 ms of one thread; waking another can take 0.5
ROWS_EACH = 24  # from so many rows a thread on the rows are divided: weights are then read once for many
MOST = 8  # a step reads memory, which a few threads exhaust, and all of them meet six times a layer


class Team:
    """The calling thread and its helpers, which sleep between calls.

    Args:
        threads: as many as may be used.
    """

    def __init__(self, threads: int) -> None:
        self.size = min(threads, MOST)
        self._helpers = ThreadPoolExecutor(self.size - 1, "tte-rows") if self.size > 1 else None

    def size_for(self, weights: int, rows: int) -> int:
        """How many threads a product of so many weights with so many rows is worth.

        One thread reads 12 weights a nanosecond and multiplies and adds 130 (measured on an AMD EPYC with AVX-512).
        """
        return self.size if weights * (1 + rows / 11) >= WORTH_DIVIDING else 1

    def plan(self, weights: int, rows: int) -> tuple[int, bool]:
        """How many threads, as `size_for` says, and whether they divide the rows or else the columns."""
        size = self.size_for(weights, rows)
        return size, rows >= ROWS_EACH * size

    def run(self, part: Callable[[int, int], object], size: int) -> None:
        """Call `part(me, size)` on `size` threads; it must let go of Python's lock, or nobody meets anybody."""
        others = [self._helpers.submit(part, me, size) for me in range(1, size)] if self._helpers else []
        part(0, size)
        for other in others:
            other.result()
