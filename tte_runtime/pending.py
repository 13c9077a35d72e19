"""Work on its way, as its caller sees it. Knows nothing of the way."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Generic, TypeVar

from tte_runtime.errors import EngineError
from tte_runtime.outcome import Outcome

Value = TypeVar("Value")


class Settled(Generic[Value]):
    """Something on its way: wait for it, or give it up. It is settled once, by whoever comes first."""

    def __init__(self) -> None:
        self._future: Future[Value] = Future()
        self._on_cancel: Callable[[], object] | None = None
        self._lock = threading.Lock()

    def result(self) -> Value:
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

    def succeed(self, result: Value) -> None:
        """Settle with a result, unless it is settled."""
        with contextlib.suppress(InvalidStateError):
            self._future.set_result(result)

    def fail(self, error: Exception) -> None:
        """Settle with an error, unless it is settled."""
        with contextlib.suppress(InvalidStateError):
            self._future.set_exception(error)

    def cancel_with(self, cancel: Callable[[], object]) -> None:
        """The request has gone on to a place where `cancel` would drop it."""
        with self._lock:
            self._on_cancel = cancel
        if self.done:
            cancel()


class Pending(Settled[Outcome]):
    """A request on its way: settled by the engine, a failed preparation, `cancel`, or `Pipeline.close`."""
