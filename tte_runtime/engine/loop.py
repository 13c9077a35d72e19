"""The engine's thread: requests come in through a queue from any thread and join between steps.

Knows when to step and when to sleep; knows nothing of what a step does.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable

from tte_runtime.engine.engine import Engine
from tte_runtime.engine.request import EngineRequest, EngineResult, Listener
from tte_runtime.errors import EngineError


class EngineLoop:
    """Runs an engine on a daemon thread of its own, which starts with the first request.

    Args:
        engine: used by the loop's thread alone from here on.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._tickets = itertools.count()
        self._numbers: dict[int, int] = {}  # ticket -> the engine's number; touched on the loop's thread only
        self._listeners: dict[int, Listener] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, request: EngineRequest, listener: Listener) -> int:
        """Hand a request over. Never blocks. Returns a ticket for `cancel`.

        Raises:
            ContextError: the request can never fit.
            EngineError: the loop is closed.
        """
        self.engine.check(request)
        with self._lock:
            if self._closed:
                raise EngineError("the engine is closed. Make a new Embedder.")
            ticket = next(self._tickets)
            self._inbox.put(lambda: self._take(ticket, request, listener))
            self._start()
        return ticket

    def cancel(self, ticket: int) -> None:
        """Drop a request; its listener hears nothing more. One that is done already is no error."""
        self._inbox.put(lambda: self._drop(ticket))

    def close(self) -> None:
        """Stop after the current step; requests still in work fail with EngineError. May be called twice."""
        with self._lock:
            self._closed = True
            thread = self._thread
            self._inbox.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="tte-engine", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while self._read_inbox():
            if self.engine.idle:
                continue
            try:
                self.engine.step()
            except Exception as error:  # the step's own requests fail with it; the loop serves the others
                failure = EngineError(f"a step failed: {type(error).__name__}: {error}")
                failure.__cause__ = error
                self.engine.fail_step(failure)
        for listener in list(self._listeners.values()):
            _tell(listener.on_error, EngineError("the engine was closed while the request was in work."))

    def _read_inbox(self) -> bool:
        """Carry out what has come in, waiting for something when the engine is idle. False when it is time to stop."""
        while True:
            try:
                command = self._inbox.get(block=self.engine.idle)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()

    def _take(self, ticket: int, request: EngineRequest, listener: Listener) -> None:
        def forget() -> None:
            self._numbers.pop(ticket, None)
            self._listeners.pop(ticket, None)

        def on_result(result: EngineResult) -> None:
            forget()
            _tell(listener.on_result, result)

        def on_error(error: Exception) -> None:
            forget()
            _tell(listener.on_error, error)

        def on_token(index: int, token: int) -> None:
            _tell(listener.on_token, index, token)

        self._listeners[ticket] = listener
        self._numbers[ticket] = self.engine.add(request, Listener(on_result, on_error, on_token))

    def _drop(self, ticket: int) -> None:
        self._listeners.pop(ticket, None)
        number = self._numbers.pop(ticket, None)
        if number is not None:
            self.engine.cancel(number)


def _tell(call: Callable[..., None], *news: object) -> None:
    """Call a listener; what it raises is its own affair and must not fail the step of its neighbours."""
    try:
        call(*news)
    except Exception:
        logging.getLogger(__name__).exception("a listener failed")
