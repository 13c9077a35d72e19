"""Between the door and the engine: a pool that prepares requests, and the loop that runs them.

Pictures are decoded and resized and prompts tokenised in threads beside the engine's loop, never in it; corpus
jobs have a pool of their own, so that they cannot hold up an interactive request. Knows no vectors' meaning.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor

from tte_runtime.engine.loop import EngineLoop
from tte_runtime.engine.request import EngineResult, Listener
from tte_runtime.errors import EngineError
from tte_runtime.inputs.items import Item
from tte_runtime.loading import Model
from tte_runtime.types import Priority, Role, Think


class Pending:
    """A request on its way: wait for its result, or give it up.

    It is settled once, by whoever comes first: the engine, a failed preparation, `cancel`, or `Pipeline.close`.
    """

    def __init__(self) -> None:
        self._future: Future[EngineResult] = Future()
        self._on_cancel: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def result(self) -> EngineResult:
        """Wait for the result; raises what the request failed with."""
        return self._future.result()

    @property
    def done(self) -> bool:
        """There is a result, or an error."""
        return self._future.done()

    def add_done_callback(self, call: Callable[[], object]) -> None:
        """Call when the request is settled, on the thread that settles it."""
        self._future.add_done_callback(lambda future: call())

    def cancel(self) -> None:
        """Give the request up wherever it is; its pages are freed between two steps."""
        self.fail(EngineError("the request was cancelled."))
        with self._lock:
            on_cancel = self._on_cancel
        if on_cancel is not None:
            on_cancel()

    def succeed(self, result: EngineResult) -> None:
        """Settle with a result, unless it is settled."""
        with contextlib.suppress(InvalidStateError):
            self._future.set_result(result)

    def fail(self, error: Exception) -> None:
        """Settle with an error, unless it is settled."""
        with contextlib.suppress(InvalidStateError):
            self._future.set_exception(error)

    def in_engine(self, cancel: Callable[[], None]) -> None:
        """The engine has taken the request over, and `cancel` would drop it there."""
        with self._lock:
            self._on_cancel = cancel
        if self.done:
            cancel()


class Pipeline:
    """One loaded checkpoint, ready to take requests from any thread.

    Args:
        model: ready to run.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.engine = model.engine
        self.renderer = model.renderer
        self._loop = EngineLoop([model.engine])
        self._lock = threading.Lock()
        self._closed = False
        self._open: set[Pending] = set()
        self._pools = {
            priority: ThreadPoolExecutor(model.config.preprocess_workers, thread_name_prefix=f"tte-prepare-{priority}")
            for priority in ("interactive", "corpus")
        }

    def submit(
        self,
        item: Item,
        role: Role,
        think: Think | None,
        *,
        priority: Priority,
        normalize: bool,
        dim: int | None = None,
        on_token: Callable[[int, int], None] = lambda index, token: None,
    ) -> Pending:
        """Take a request in and return at once; errors of its preparation come with its result.

        Raises:
            EngineError: the pipeline is closed.
        """
        arrival = time.perf_counter()
        pending = Pending()

        def prepare() -> None:
            if pending.done:
                return
            try:
                request = self.renderer.render(
                    item, role, think, priority=priority, normalize=normalize, arrival=arrival, dim=dim
                )
                ticket = self._loop.submit(request, Listener(pending.succeed, pending.fail, on_token))
            except Exception as error:
                pending.fail(error)
            else:
                pending.in_engine(lambda: self._loop.cancel(ticket))

        with self._lock:
            if self._closed:
                raise EngineError("the embedder is closed. Make a new one.")
            self._open.add(pending)
            self._pools[priority].submit(prepare)
        pending.add_done_callback(lambda: self._open.discard(pending))
        return pending

    def clear_caches(self) -> None:
        """Forget cached prefixes and picture features; to be called while nothing is in work."""
        assert self.engine.idle, "caches are cleared between requests"
        self.engine.pool.forget()
        if self.model.vision_cache is not None:
            self.model.vision_cache.clear()

    def close(self) -> None:
        """Stop the pools and the loop; what is still in work fails with EngineError. May be called twice."""
        with self._lock:
            self._closed = True
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)
        self._loop.close()
        for pending in list(self._open):
            pending.fail(EngineError("the embedder was closed while the request was in work."))
