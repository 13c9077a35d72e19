"""A few threads that go through one compiled call together. Knows threads; knows nothing of what they compute."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

WORTH_DIVIDING = 24e6  # see `Team.size_for`: 2 ms of one thread; all meet, and waking one can take 0.5
WORTH_SHARING = 2.4e6  # by rows, where nobody waits for a thread that wakes up: 0.2 ms
ROWS_EACH = 24  # from so many rows a thread on the rows are divided: weights are then read once for many
CACHED = 8e6  # so many weights stay in a last cache, and may be read for every tile of rows
LONGEST = 128  # rows of a piece, whose states of an MLP are kept at once
TILE = 12  # rows that a product takes best at once, see tiles.py
BROKEN = 2**40  # what counters show where somebody failed: more than anybody waits for
MOST = 8  # a step reads memory, which a few threads exhaust, and all of them meet six times a layer


class Team:
    """The calling thread and its helpers, which sleep between calls.

    Args:
        threads: as many as may be used.
    """

    def __init__(self, threads: int) -> None:
        self.size = min(threads, MOST)
        self._helpers: ThreadPoolExecutor | None = None
        self._process = 0  # whose threads the helpers are; a fork has none of them

    def size_for(self, weights: int, rows: int) -> int:
        """How many threads a product of so many weights with so many rows is worth.

        One thread reads 12 weights a nanosecond and multiplies and adds 130 (measured on an AMD EPYC with AVX-512).
        """
        return self.size if weights * (1 + rows / 11) >= WORTH_DIVIDING else 1

    def plan(self, weights: int, rows: int) -> tuple[int, int]:
        """How many threads, as `size_for` says, and the rows of a piece; 0 where they divide the columns.

        There are a few pieces a thread, so that one that comes late finds some, but no more: weights are read once a
        piece.
        """
        if rows < (TILE if weights <= CACHED else ROWS_EACH) * self.size:
            return self.size_for(weights, rows), 0
        if self.size == 1 or weights * (1 + rows / 11) < WORTH_SHARING:
            return 1, LONGEST
        return self.size, min(LONGEST, -(-rows // (3 * self.size * TILE)) * TILE)

    def run(self, part: Callable[[int, int], object], size: int, counters: NDArray[np.int64], *, pieces: bool) -> None:
        """Call `part(me, size)` on `size` threads; it must let go of Python's lock, or nobody meets anybody.

        Args:
            counters: what the threads wait for one another with, zeros (barrier.py).
            pieces: threads take what nobody has, so that one that has not begun when another ends is not needed; else
                each has its share.

        Raises:
            what a part raised. The others do not wait for it, and their results mean nothing.
        """

        def own(me: int) -> None:
            try:
                part(me, size)
            except BaseException:
                counters[:] = BROKEN
                raise

        others: list[Future[None]] = []
        try:
            others += (self.helpers().submit(own, me) for me in range(1, size))
            own(0)
        except BaseException:  # of starting a thread, too
            counters[:] = BROKEN
            raise
        finally:
            for other in others:
                if not (pieces and other.cancel()):
                    other.result()

    def helpers(self) -> ThreadPoolExecutor:
        """The helpers, of this process."""
        if self._helpers is None or self._process != os.getpid():
            self._process, self._helpers = os.getpid(), ThreadPoolExecutor(self.size - 1, "tte-rows")
        return self._helpers
