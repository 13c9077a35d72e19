"""The engines' thread when things go wrong: whoever waits hears of it, and nothing is taken in that nobody will do."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tte_runtime.engine.loop import EngineLoop
from tte_runtime.engine.request import Listener
from tte_runtime.errors import EngineError


class Stub:
    """An engine that takes everything in, and fails where it is told to."""

    def __init__(self, **fails: Exception) -> None:
        self.config = SimpleNamespace(torch_threads=1)
        self.idle = True
        self.stepping = threading.Event()
        self._fails = fails

    def _maybe(self, name: str) -> None:
        if name in self._fails:
            raise self._fails[name]

    def check(self, request: object) -> None:
        """Everything fits."""

    def add(self, request: object, listener: Listener) -> int:
        self.idle = False
        return 0

    def step(self) -> None:
        self.stepping.wait(10)
        self._maybe("step")

    def fail_step(self, error: Exception) -> None:
        self._maybe("fail_step")

    def cancel(self, number: int) -> None:
        self._maybe("cancel")


def submit(loop: EngineLoop) -> queue.SimpleQueue[Any]:
    """Hand a request over. Returns where its outcome comes."""
    heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
    loop.submit(None, Listener(on_result=heard.put, on_error=heard.put))  # type: ignore[arg-type]
    return heard


@pytest.mark.parametrize("where", ["fail_step", "cancel"])
def test_a_thread_that_fails_tells_everybody_and_takes_no_more(where: str) -> None:
    fault = AssertionError("page 3 is released more often than held")
    engine = Stub(**{"step": ValueError("a step"), where: fault})  # type: ignore[arg-type]
    loop = EngineLoop([engine])  # type: ignore[list-item]
    taken, waiting = submit(loop), submit(loop)
    if where == "cancel":
        loop.cancel(0)
        taken = waiting  # the first one asked to hear nothing more
    engine.stepping.set()
    for heard in (taken, waiting)[: 1 if where == "cancel" else 2]:
        error = heard.get(timeout=10)
        assert isinstance(error, EngineError) and "page 3 is released" in str(error) and error.__cause__ is fault
    with pytest.raises(EngineError, match="closed"):
        submit(loop)
    loop.close()


def test_a_request_is_refused_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    loop = EngineLoop([Stub(step=ValueError("a step"), fail_step=ValueError("reached"))])  # type: ignore[list-item]
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(EngineError, match="can't start new thread"):
            submit(loop)
    heard = submit(loop)
    loop.engines[0].stepping.set()  # type: ignore[attr-defined]
    assert "reached" in str(heard.get(timeout=10)), "a later request starts the thread after all"


FORKS = """
import os, signal, sys, warnings
from tte_runtime import Embedder
from tte_runtime.errors import EngineError

warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, about just this
with Embedder.from_pretrained(sys.argv[1], kernels="torch") as embedder:
    before = embedder.embed("one", role="document", think=False)
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # ends a child that waits for ever
        try:
            embedder.embed("one", role="document", think=False)
        except EngineError as error:
            os._exit(0 if f"loaded in process {os.getppid()}" in str(error) and "spawn" in str(error) else 2)
        os._exit(3)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status
    after = embedder.embed("one", role="document", think=False)
    assert (before.vector == after.vector).all()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_refused_at_once(random_folder: Path) -> None:
    """In a process of its own: what other tests left behind need not survive a fork (PyAV's threads do not)."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS, str(random_folder)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
