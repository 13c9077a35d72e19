"""Several traces of one prompt, snapshots of a trace under way, and markers among generated tokens."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tte_runtime import Embedder, Result, Snapshot, Think, TraceToken
from tte_runtime.engine.loop import EngineLoop
from tte_runtime.engine.request import EngineRequest, EngineResult, KnownTrace, Listener, Readout, Sampling
from tte_runtime.errors import OptionError
from tte_runtime.inputs.items import parse_item

LIMIT = 14
NOTHING_BEHIND = {"close_ids": (), "suffix_ids": ()}
OPTIONS: list[dict[str, Any]] = [{}, {"overlap": True}]


@pytest.fixture(params=OPTIONS, ids=["in step", "one behind"])
def embedder(request: pytest.FixtureRequest, random_folder: Path) -> Iterator[Embedder]:
    with Embedder.from_pretrained(random_folder, **request.param) as embedder:
        yield embedder


def prepare(embedder: Embedder, text: str = "one two three four five six seven eight nine") -> EngineRequest:
    """A thinking query, rendered as the embedder would."""
    return embedder._pipeline.renderer.render(
        parse_item(text), "query", Think(max_tokens=LIMIT), priority="interactive", normalize=True, arrival=0.0
    )


def run(embedder: Embedder, *requests: EngineRequest) -> tuple[list[EngineResult], list[list[tuple[int, Any]]]]:
    """Results, and the snapshots of each request."""
    loop: EngineLoop = embedder._pipeline.loop
    done: dict[int, EngineResult | Exception] = {}
    shown: list[list[tuple[int, Any]]] = [[] for _ in requests]
    settled = threading.Semaphore(0)

    def take(index: int, outcome: EngineResult | Exception) -> None:
        done[index] = outcome
        settled.release()

    for i, request in enumerate(requests):
        listener = Listener(
            on_result=lambda result, i=i: take(i, result),  # type: ignore[misc]
            on_error=lambda error, i=i: take(i, error),  # type: ignore[misc]
            on_snapshot=lambda length, vector, i=i: shown[i].append((length, vector)),  # type: ignore[misc]
        )
        loop.submit(request, listener)
    for _ in requests:
        assert settled.acquire(timeout=60)
    results = [done[i] for i in range(len(requests))]
    assert all(isinstance(result, EngineResult) for result in results), results
    return results, shown  # type: ignore[return-value]


def drawn(request: EngineRequest, **options: Any) -> EngineRequest:
    return replace(request, sampling=Sampling(temperature=1.2, seed=5), **options)


@pytest.mark.parametrize("text", ["one", "one two three four five six seven eight nine", "a b c d e f g h i j k l"])
def test_traces_of_one_prompt_are_those_of_single_requests(embedder: Embedder, text: str) -> None:
    request = drawn(prepare(embedder, text))
    singles = [replace(request, sampling=replace(request.sampling, trace_index=i)) for i in range(4)]
    expected = [run(embedder, single)[0][0] for single in singles]
    assert len({result.trace_ids for result in expected}) > 1, "nothing to tell apart"
    embedder.clear_caches()
    (result,), _ = run(embedder, replace(request, num_traces=4))
    assert result.traces == tuple(one.trace_ids for one in expected)
    mean = np.mean([one.vector for one in expected], axis=0)
    assert np.abs(result.vector - mean / np.linalg.norm(mean)).max() < 1e-5
    counts = result.counts
    assert counts.computed - counts.replayed == counts.prompt + counts.trace + counts.suffix
    assert counts.replayed == 0 and counts.cached == 0, "the prompt was computed once"


@pytest.mark.parametrize(
    "readout", [Readout("last"), Readout("head"), Readout("mean"), Readout("marker", 2)], ids=lambda r: r.kind
)
def test_every_trace_is_read_as_if_it_were_the_only_one(embedder: Embedder, readout: Readout) -> None:
    """What is kept of the prompt's states is kept for all of them."""
    request = replace(prepare(embedder), readout=readout, sampling=Sampling(temperature=1.3, seed=3))
    (together,), _ = run(embedder, replace(request, num_traces=3))
    singles = [replace(request, sampling=replace(request.sampling, trace_index=i)) for i in range(3)]
    alone, _ = run(embedder, *singles)
    assert together.traces == tuple(one.trace_ids for one in alone)
    mean = np.mean([one.vector for one in alone], axis=0)
    assert np.abs(together.vector - mean / np.linalg.norm(mean)).max() < 1e-5


def test_traces_that_end_where_they_fork_are_answered(embedder: Embedder) -> None:
    """The deadline is past at the prompt's end, and nothing is fed behind a trace."""
    late = replace(prepare(embedder), deadline=0.0, readout=Readout("last"), **NOTHING_BEHIND)
    (together,), _ = run(embedder, replace(late, num_traces=2, sampling=Sampling(temperature=1.0)))
    (alone,), _ = run(embedder, late)
    assert together.traces == ((), ()) and together.forced_by == "deadline"
    assert np.abs(together.vector - alone.vector).max() < 1e-5


def test_traces_that_find_no_room_wait_and_nothing_is_lost(random_folder: Path) -> None:
    with Embedder.from_pretrained(random_folder) as roomy:
        request = drawn(prepare(roomy), num_traces=5)
        expected = run(roomy, request)[0][0]
    for options in ({"max_batch_size": 2}, {"max_context": 64, "kv_cache_tokens": 96}):
        with Embedder.from_pretrained(random_folder, **options) as embedder:  # type: ignore[arg-type]
            (result, other), _ = run(embedder, request, prepare(embedder))
            assert result.traces == expected.traces
            assert np.abs(result.vector - expected.vector).max() < 1e-5
            counts = result.counts
            assert counts.computed - counts.replayed == counts.prompt + counts.trace + counts.suffix - counts.cached
            assert other.trace_ids
            pool = embedder._pipeline.engine.pool
            assert pool.num_available == pool.num_pages - 1


@pytest.mark.parametrize("readout", [Readout("head"), Readout("last"), Readout("mean")], ids=lambda r: r.kind)
@pytest.mark.parametrize("every", [1, 5])
def test_a_snapshot_is_the_vector_of_the_trace_ended_there(embedder: Embedder, readout: Readout, every: int) -> None:
    request = replace(prepare(embedder), readout=readout)
    (plain,), _ = run(embedder, request)
    (result,), (shown,) = run(embedder, replace(request, snapshot_every=every))
    assert result.trace_ids == plain.trace_ids and np.abs(result.vector - plain.vector).max() < 1e-5
    assert [length for length, _ in shown] == list(range(every, len(plain.trace_ids), every))
    for length, vector in shown:
        known = KnownTrace(plain.trace_ids[:length], "forced", "max_tokens")
        (ended,), _ = run(embedder, replace(request, known_trace=known))
        assert np.abs(vector - ended.vector).max() < 1e-5
    suffix = len(request.close_ids) + len(request.suffix_ids)
    assert len(shown) * suffix <= result.counts.snapshots <= (len(shown) + 1) * suffix


def test_a_snapshot_without_closing_tokens_is_the_state_itself(embedder: Embedder) -> None:
    request = replace(prepare(embedder), readout=Readout("last"), close_ids=(), suffix_ids=())
    (result,), (shown,) = run(embedder, replace(request, snapshot_every=4))
    known = KnownTrace(result.trace_ids[:4], "forced", "max_tokens")
    (ended,), _ = run(embedder, replace(request, known_trace=known))
    assert shown[0][0] == 4 and np.abs(shown[0][1] - ended.vector).max() < 1e-5


def test_a_trace_whose_vector_has_settled_ends(embedder: Embedder) -> None:
    request = replace(prepare(embedder), snapshot_every=2)
    (result,), (shown,) = run(embedder, replace(request, stop_cosine=-1.0))
    assert (result.finish_reason, result.forced_by) == ("forced", "settled")
    assert 4 <= len(result.trace_ids) <= 8, "it ends with the second snapshot, or what was under way then"
    assert 2 <= len(shown) <= 3
    (whole,), _ = run(embedder, replace(request, stop_cosine=1.1))
    assert len(whole.trace_ids) > 8


def test_snapshots_are_left_out_where_there_is_no_room(random_folder: Path) -> None:
    with Embedder.from_pretrained(random_folder) as roomy:
        request = prepare(roomy)
        expected = run(roomy, request)[0][0]
    needed = -(-request.max_len // 16) * 16
    with Embedder.from_pretrained(random_folder, max_context=needed, kv_cache_tokens=needed) as small:
        (result,), _ = run(small, replace(request, snapshot_every=1))
        assert result.trace_ids == expected.trace_ids and np.abs(result.vector - expected.vector).max() < 1e-5
        assert small._pipeline.engine.pool.num_available == small._pipeline.engine.pool.num_pages - 1


def marked(request: EngineRequest, marker: int, **options: Any) -> EngineRequest:
    readout = Readout("generated_marker", marker_id=marker)
    return replace(request, readout=readout, close_ids=(marker,), suffix_ids=(), **options)


def last_state_after(embedder: Embedder, request: EngineRequest, trace: tuple[int, ...]) -> Any:
    """The state of the last token of a trace, by feeding just that."""
    plain = replace(request, readout=Readout("last"), close_ids=(), suffix_ids=(), known_trace=KnownTrace(trace))
    return run(embedder, plain)[0][0].vector


def test_the_last_marker_that_was_written_is_read(embedder: Embedder) -> None:
    request = prepare(embedder)
    trace = run(embedder, request)[0][0].trace_ids
    for marker in set(trace[:-1]):
        (result,), _ = run(embedder, marked(request, marker))
        assert result.trace_ids == trace and result.counts.suffix == 0
        at = len(trace) - 1 - trace[::-1].index(marker)
        expected = last_state_after(embedder, request, trace[: at + 1])
        assert np.abs(result.vector - expected).max() < 1e-5


def test_a_marker_that_stops_the_trace_is_fed_and_read(embedder: Embedder) -> None:
    request = prepare(embedder)
    trace = run(embedder, request)[0][0].trace_ids
    marker = trace[5]
    (result,), _ = run(embedder, marked(request, marker, stop_ids=frozenset([marker])))
    assert result.finish_reason == "stop" and result.trace_ids == trace[: trace.index(marker) + 1]
    expected = last_state_after(embedder, request, result.trace_ids)
    assert np.abs(result.vector - expected).max() < 1e-5


def test_a_marker_that_never_comes_is_forced(embedder: Embedder) -> None:
    request = prepare(embedder)
    trace = run(embedder, request)[0][0].trace_ids
    missing = next(i for i in range(100) if i not in trace)
    (limited,), _ = run(embedder, marked(request, missing, stop_ids=frozenset()))
    assert (limited.finish_reason, limited.forced_by) == ("forced", "max_tokens")
    stop = trace[3]
    (stopped,), _ = run(embedder, marked(request, missing, stop_ids=frozenset([stop])))
    assert (stopped.finish_reason, stopped.forced_by) == ("forced", "no_marker")
    for result in (limited, stopped):
        expected = last_state_after(embedder, request, (*result.trace_ids, missing))
        assert result.counts.suffix == 1 and np.abs(result.vector - expected).max() < 1e-5


def test_several_traces_through_the_door(embedder: Embedder) -> None:
    result = embedder.embed("one two", role="query", think=Think(max_tokens=6, temperature=1.0, num_traces=3))
    assert len(result.traces) == 3 and result.traces[0] == result.trace
    assert np.linalg.norm(result.vector) == pytest.approx(1, abs=1e-6)
    short = embedder.encode_query(["one two"], think=Think(max_tokens=6, temperature=1.0, num_traces=3), truncate_dim=8)
    assert short.shape == (1, 8) and np.linalg.norm(short[0]) == pytest.approx(1, abs=1e-6)


def test_a_stream_with_snapshots(embedder: Embedder) -> None:
    *events, last = embedder.stream("one two", role="query", think=Think(max_tokens=LIMIT), snapshot_every=3)
    snapshots = [event for event in events if isinstance(event, Snapshot)]
    tokens = [event for event in events if isinstance(event, TraceToken)]
    assert isinstance(last, Result) and len(tokens) == len(last.trace_ids) == LIMIT
    assert [snapshot.num_tokens for snapshot in snapshots] == [3, 6, 9, 12]
    for snapshot in snapshots:
        ended = embedder.embed("one two", role="query", think=Think(max_tokens=snapshot.num_tokens))
        assert np.abs(snapshot.vector - ended.vector).max() < 1e-5


def test_a_vector_that_has_settled_ends_the_trace(embedder: Embedder) -> None:
    result = embedder.embed("one two", role="query", think=Think(max_tokens=60, stop_cosine=1e-9))
    assert result.forced_by == "settled" and len(result.trace_ids) < 60
    assert result.counts.snapshots > 0


@pytest.mark.parametrize(
    "options",
    [
        {"num_traces": 0},
        {"num_traces": 2},
        {"snapshot_every": -1},
        {"stop_cosine": 1.5},
        {"num_traces": 2, "temperature": 1.0, "snapshot_every": 2},
    ],
)
def test_impossible_wishes_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        Think(**options)


def test_snapshots_need_a_trace(embedder: Embedder) -> None:
    with pytest.raises(OptionError, match="needs a trace"):
        embedder.stream("one", role="query", think=False, snapshot_every=2)
