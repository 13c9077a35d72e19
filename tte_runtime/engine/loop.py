"""The engines' thread: requests come in through a queue from any thread and join between steps.

One thread drives every engine of an embedder, its reasoner's too, one step each in turn, so that one model's trace and
another's embedding go on side by side. Knows when to step and when to sleep; knows nothing of what a step does.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import queue
import threading
import weakref
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tte_runtime.engine.engine import Engine
from tte_runtime.engine.request import EngineRequest, EngineResult, Listener
from tte_runtime.errors import EngineError
from tte_runtime.ops.threads import use_threads


class EngineLoop:
    """Runs engines on a daemon thread of its own, which starts with the first request.

    When Python exits the loop is closed: a thread that Python ends inside of torch would take the process down with it.
    If the thread fails, the loop is closed as well: whoever waits is told, and nothing more is taken in.

    Args:
        engines: used by the loop's thread alone from here on; the first is the one that `submit` means by itself.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = list(engines)
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._tickets = itertools.count()
        self._numbers: dict[int, tuple[Engine, int]] = {}  # ticket -> the engine's number; on the loop's thread only
        self._listeners: dict[int, Listener] = {}  # by ticket, from `submit` until there is no more news
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._process = os.getpid()

    def add(self, engine: Engine) -> None:
        """Drive one more engine; to be called before the first request."""
        assert self._thread is None, "engines are added before the loop runs"
        self.engines.append(engine)

    def check_process(self) -> None:
        """Refuse to run in a process that was forked from ours: threads do not come along, so all would wait for ever.

        Raises:
            EngineError: this is another process than the one that loaded the engines.
        """
        if os.getpid() != self._process:
            raise EngineError(
                f"the embedder was loaded in process {self._process} and its threads are not in this one, "
                f"{os.getpid()}, which was forked from it. Load the embedder here, or start processes by spawn."
            )

    def submit(self, request: EngineRequest, listener: Listener, engine: Engine | None = None) -> int:
        """Hand a request over, from any thread, a listener's included. Never blocks.

        Args:
            request: what to embed.
            listener: where its news go.
            engine: one of the loop's; the first by default.

        Returns:
            a ticket for `cancel`.

        Raises:
            ContextError: the request can never fit.
            EngineError: the loop is closed, this process was forked from the loop's, or no thread can be started.
        """
        self.check_process()
        chosen = engine or self.engines[0]
        chosen.check(request)
        with self._lock:
            if self._closed:
                raise EngineError("the engine is closed. Make a new Embedder.")
            self._start()
            ticket = next(self._tickets)
            self._listeners[ticket] = listener
            self._inbox.put(lambda: self._take(chosen, ticket, request, listener))
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
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name="tte-engine", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise EngineError(
                f"the engine's thread cannot be started ({error}). Try again with fewer threads."
            ) from error
        self._thread = thread
        atexit.register(_close, weakref.ref(self))

    @property
    def _idle(self) -> bool:
        return all(engine.idle for engine in self.engines)

    def _run(self) -> None:
        end = EngineError("the engine was closed while the request was in work.")
        try:
            self._serve()
        except Exception as error:
            logging.getLogger(__name__).exception("the engine's thread failed")
            end = EngineError(f"the engine failed: {type(error).__name__}: {error}. Make a new Embedder.")
            end.__cause__ = error
        finally:
            with self._lock:
                self._closed = True
            for listener in list(self._listeners.values()):
                _tell(listener.on_error, end)

    def _serve(self) -> None:
        use_threads(int(self.engines[0].config.torch_threads))
        turns = itertools.cycle(self.engines)
        while self._read_inbox():
            if not self._idle:
                self._step(next(engine for engine in turns if not engine.idle))

    def _step(self, engine: Engine) -> None:
        try:
            engine.step()
        except Exception as error:  # the step's own requests fail with it; the loop serves the others
            failure = EngineError(f"a step failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            engine.fail_step(failure)

    def _read_inbox(self) -> bool:
        """Carry out what has come in, waiting for something when all is idle. False when it is time to stop."""
        while True:
            try:
                command = self._inbox.get(block=self._idle)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()

    def _take(self, engine: Engine, ticket: int, request: EngineRequest, listener: Listener) -> None:
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

        def on_snapshot(length: int, vector: NDArray[np.float32]) -> None:
            _tell(listener.on_snapshot, length, vector)

        relayed = Listener(on_result, on_error, on_token, on_snapshot)
        try:
            self._numbers[ticket] = engine, engine.add(request, relayed)
        except Exception as error:  # this thread serves everybody and must not end with one request
            on_error(EngineError(f"the request could not be taken in: {type(error).__name__}: {error}"))

    def _drop(self, ticket: int) -> None:
        self._listeners.pop(ticket, None)
        engine, number = self._numbers.pop(ticket, (None, None))
        if engine is not None and number is not None:
            engine.cancel(number)


def _close(loop: weakref.ref[EngineLoop]) -> None:
    if (alive := loop()) is not None:
        alive.close()


def _tell(call: Callable[..., None], *news: object) -> None:
    """Call a listener; what it raises is its own affair and must not fail the step of its neighbours."""
    try:
        call(*news)
    except Exception:
        logging.getLogger(__name__).exception("a listener failed")
