"""A few threads that go through one compiled call together. Knows threads; knows nothing of what they compute."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

MOST = 8  # a step reads memory, which a few threads exhaust, and all of them meet six times a layer


class Team:
    """The calling thread and its helpers, which sleep between calls.

    Args:
        threads: as many as may be used.
    """

    def __init__(self, threads: int) -> None:
        self.size = min(threads, MOST)
        self._helpers = ThreadPoolExecutor(self.size - 1, "tte-rows") if self.size > 1 else None

    def run(self, part: Callable[[int, int], object]) -> None:
        """Call `part(me, size)` on every thread; it must let go of Python's lock, or nobody meets anybody."""
        if self._helpers is None:
            part(0, 1)
            return
        others = [self._helpers.submit(part, me, self.size) for me in range(1, self.size)]
        part(0, self.size)
        for other in others:
            other.result()
