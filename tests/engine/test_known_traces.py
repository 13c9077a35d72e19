"""A trace that is there already is fed on the decode path: the vector that it had, and nothing is sampled."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tte_runtime import Embedder, Think
from tte_runtime.engine.request import EngineRequest, EngineResult, KnownTrace, Listener
from tte_runtime.inputs.items import parse_item


def ask(embedder: Embedder, item: Any, think: Think | None) -> EngineRequest:
    return embedder._pipeline.renderer.render(
        parse_item(item), "query", think, priority="interactive", normalize=True, arrival=time.perf_counter()
    )


def run_all(embedder: Embedder, requests: list[EngineRequest]) -> list[EngineResult]:
    """Requests straight to the engine's loop, all at once."""
    results: dict[int, Any] = {}
    done = threading.Semaphore(0)

    def settle(index: int, outcome: Any) -> None:
        results[index] = outcome
        done.release()

    for i, request in enumerate(requests):
        listener = Listener(on_result=lambda r, i=i: settle(i, r), on_error=lambda e, i=i: settle(i, e))
        embedder._pipeline.loop.submit(request, listener)
    for _ in requests:
        assert done.acquire(timeout=60)
    return [results[i] for i in range(len(requests))]


@pytest.mark.parametrize("options", [{}, {"max_context": 208, "kv_cache_tokens": 320, "prefix_cache": False}])
def test_a_known_trace_gives_the_vector_that_writing_it_gave(
    random_folder: Path, requests: list[Any], options: dict[str, Any]
) -> None:
    with Embedder.from_pretrained(random_folder, max_batch_size=8, **options) as embedder:
        written = [ask(embedder, item, Think(max_tokens=limit)) for item, _, limit in requests[:20] if limit]
        first = run_all(embedder, written)
        assert {result.finish_reason for result in first} >= {"forced"}
        known = [
            replace(request, known_trace=KnownTrace(r.trace_ids, r.finish_reason, r.forced_by), max_trace_tokens=0)
            for request, r in zip(written, first, strict=True)
        ]
        for before, after in zip(first, run_all(embedder, known), strict=True):
            assert after.trace_ids == before.trace_ids
            assert (after.finish_reason, after.forced_by) == (before.finish_reason, before.forced_by)
            assert np.abs(after.vector - before.vector).max() < 1e-5
            counts = after.counts
            assert (counts.trace, counts.suffix) == (before.counts.trace, before.counts.suffix)
            assert counts.computed - counts.replayed + counts.cached == counts.prompt + counts.trace + counts.suffix


def test_a_trace_without_its_stop_token_is_closed(random_folder: Path) -> None:
    with Embedder.from_pretrained(random_folder) as embedder:
        request = replace(ask(embedder, "one", None), known_trace=KnownTrace((5, 6, 7)))
        stopped = replace(request, known_trace=KnownTrace((5, 6, 7, *request.close_ids)))
        open_ended, closed = run_all(embedder, [request, stopped])
        assert np.abs(open_ended.vector - closed.vector).max() < 1e-6
        assert (open_ended.counts.trace, open_ended.counts.suffix) == (3, 2)
        assert (closed.counts.trace, closed.counts.suffix) == (4, 1)


def test_two_engines_take_turns(random_folder: Path) -> None:
    """A long trace in one engine does not hold up an embedding in the other: a step each, as long as both have work."""
    from tte_runtime.engine.loop import EngineLoop

    with Embedder.from_pretrained(random_folder) as first, Embedder.from_pretrained(random_folder) as second:
        engines = [first._pipeline.engine, second._pipeline.engine]
        loop = EngineLoop(engines)
        steps: list[int] = []
        for number, engine in enumerate(engines):
            engine.step = _counted(engine.step, steps, number)  # type: ignore[method-assign]
        done = threading.Semaphore(0)
        listener = Listener(on_result=lambda r: done.release(), on_error=lambda e: done.release())
        gate = threading.Event()
        loop._inbox.put(lambda: gate.wait(60) and None)  # both are in before the first step
        loop.submit(ask(first, "one", Think(max_tokens=9, temperature=1.0)), listener)  # drawn token by token
        loop.submit(ask(second, "two", Think(max_tokens=3)), listener, engines[1])
        gate.set()
        assert done.acquire(timeout=60) and done.acquire(timeout=60)
        loop.close()
        shared = steps.index(1) + 2 * steps.count(1) - 1
        assert steps[:shared] == [0, 1] * (shared // 2) and set(steps[shared:]) == {0}


def _counted(step: Any, steps: list[int], number: int) -> Any:
    def counted() -> bool:
        steps.append(number)
        return bool(step())

    return counted
