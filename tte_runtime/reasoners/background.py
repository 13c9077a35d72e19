"""An asyncio loop on a thread of its own, and slots that limit how many tasks talk at once. Knows no endpoint."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any


class Background:
    """Runs coroutines beside threads. Its thread starts with the first one and ends with `close`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], object]:
        """Start some work and return at once with a function that cancels it; nothing is started after `close`."""
        with self._lock:
            if self._closed:
                return lambda: None
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop.run_forever, name="tte-reasoner", daemon=True)
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(work(), self._loop).cancel

    def close(self, last: Callable[[], Awaitable[None]]) -> None:
        """Cancel what is at work, wait for it, do one last thing, and end. May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._thread is not None:
            asyncio.run_coroutine_threadsafe(self._wind_up(last), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    async def _wind_up(self, last: Callable[[], Awaitable[None]]) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await last()


class Slots:
    """A semaphore whose waiters go by rank, then by arrival.

    Args:
        count: how many may be inside at once.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()

    @asynccontextmanager
    async def taken(self, rank: int) -> AsyncIterator[None]:
        """A slot; lower ranks get theirs first."""
        if self._free:
            self._free -= 1
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (rank, next(self._arrivals), turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():  # it was given a slot in the same moment
                    self._release()
                raise
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
