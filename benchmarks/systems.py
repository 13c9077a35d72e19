"""Systems that serve requests while others arrive: this runtime, and plain transformers with dynamic batching.

Both take requests at once and tell a callback when one is done. Know nothing of when requests come.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from benchmarks.ways import ROLE, Runtime, Way
from tte_runtime.inputs.items import parse_item
from tte_runtime.pipeline import Pending
from tte_runtime.types import Priority, Think

__all__ = ["DynamicBatching", "RuntimeSystem", "System"]

Done = Callable[[], None]


class System(Protocol):
    """Something that serves."""

    def submit(self, item: dict[str, Any], priority: Priority, done: Done) -> None:
        """Take a request and return at once; `done` is called when its vector is there."""

    def drop(self) -> None:
        """Give up what is unfinished, and start the next time with empty caches."""


class RuntimeSystem:
    """This runtime as an `Embedder` runs it."""

    def __init__(self, runtime: Runtime, think: Think | None) -> None:
        self.runtime, self.think = runtime, think
        self._open: set[Pending] = set()

    def submit(self, item: dict[str, Any], priority: Priority, done: Done) -> None:
        """As `System`."""
        pending = self.runtime.pipeline.submit(parse_item(item), ROLE, self.think, priority=priority, normalize=True)
        self._open.add(pending)

        def settled() -> None:
            self._open.discard(pending)
            with suppress(Exception):  # one that was given up is not done
                pending.result()
                done()

        pending.add_done_callback(settled)

    def drop(self) -> None:
        """As `System`."""
        for pending in list(self._open):
            pending.cancel()
        while not self.runtime.pipeline.engine.idle:  # cancellations take effect between two steps
            time.sleep(0.001)
        self.runtime.embedder.clear_caches()


class DynamicBatching:
    """Plain transformers behind a queue: whatever waits when a batch is done becomes the next one, interactive first.

    Args:
        way: how a batch is run.
        max_batch_size: most requests of a batch.
    """

    def __init__(self, way: Way, think: Think | None, max_batch_size: int) -> None:
        self.way, self.think, self.max_batch_size = way, think, max_batch_size
        self._waiting: dict[Priority, deque[tuple[dict[str, Any], Done]]] = {"interactive": deque(), "corpus": deque()}
        self._change = threading.Condition()
        self._running = False
        threading.Thread(target=self._serve, name="dynamic-batching", daemon=True).start()

    def submit(self, item: dict[str, Any], priority: Priority, done: Done) -> None:
        """As `System`."""
        with self._change:
            self._waiting[priority].append((item, done))
            self._change.notify_all()

    def drop(self) -> None:
        """As `System`; waits for the batch that is running."""
        with self._change:
            for queue in self._waiting.values():
                queue.clear()
            self._change.wait_for(lambda: not self._running)

    def _serve(self) -> None:
        while True:
            with self._change:
                self._running = False
                self._change.notify_all()
                self._change.wait_for(lambda: any(self._waiting.values()))
                queue = self._waiting["interactive"] or self._waiting["corpus"]
                batch = [queue.popleft() for _ in range(min(len(queue), self.max_batch_size))]
                self._running = True
            self.way.embed([item for item, _ in batch], self.think)
            for _, done in batch:
                done()
