"""What a user relies on: limits, sampling, streaming, neighbours, closing. On a random model; no accuracy here."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_harness import drive, render
from PIL import Image

from tte_runtime import Embedder, Result, Think, TraceToken
from tte_runtime.engine.request import EngineResult, MediaSpan, Sampling
from tte_runtime.errors import BatchError, EngineError, OptionError


@pytest.fixture
def embedder(random_folder: Path) -> Iterator[Embedder]:
    with Embedder.from_pretrained(random_folder) as embedder:
        yield embedder


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (56, 56, 3), dtype=np.uint8))


def test_a_deadline_closes_the_trace_with_a_valid_vector(embedder: Embedder) -> None:
    result = embedder.embed("one two", role="query", think=Think(max_tokens=90, deadline_ms=0))
    assert (result.finish_reason, result.forced_by) == ("forced", "deadline")
    assert result.counts.trace == 0 and result.counts.suffix == 2
    assert np.linalg.norm(result.vector) == pytest.approx(1, abs=1e-6)


def test_a_token_limit_is_marked(embedder: Embedder) -> None:
    result = embedder.embed("one two", role="query", think=Think(max_tokens=3))
    assert (result.finish_reason, result.forced_by) == ("forced", "max_tokens")
    assert result.counts.trace == len(result.trace_ids) == 3


def test_no_thinking_in_three_ways(embedder: Embedder) -> None:
    ways: list[Any] = [False, Think(max_tokens=0)]
    results = [embedder.embed("one two", role="query", think=way) for way in ways]
    for result in results:
        assert result.finish_reason == "no_trace" and result.trace == "" and result.counts.trace == 0
    assert np.array_equal(results[0].vector, results[1].vector)


def test_sampling_is_seeded_and_deaf_to_neighbours(embedder: Embedder) -> None:
    def draw(seed: int, text: str = "one two") -> Result:
        return embedder.embed(text, role="query", think=Think(max_tokens=12, temperature=1.0, top_p=0.9, seed=seed))

    alone = draw(1)
    assert draw(1).trace_ids == alone.trace_ids
    assert len({draw(seed).trace_ids for seed in range(4)}) > 1
    beside = embedder.embed(
        ["one two", "three", "four five six"],
        role="query",
        think=Think(max_tokens=12, temperature=1.0, top_p=0.9, seed=1),
    )
    assert beside[0].trace_ids == alone.trace_ids


def test_top_k_of_one_is_greedy(embedder: Embedder) -> None:
    greedy = embedder.embed("one", role="query", think=Think(max_tokens=9))
    sampled = embedder.embed("one", role="query", think=Think(max_tokens=9, temperature=2.0, top_k=1))
    assert sampled.trace_ids == greedy.trace_ids


def test_a_stream_ends_with_the_result_of_embed(embedder: Embedder) -> None:
    think = Think(max_tokens=8)
    *tokens, last = embedder.stream({"image": noise(0), "text": "x"}, role="query", think=think)
    result = embedder.embed({"image": noise(0), "text": "x"}, role="query", think=think)
    assert isinstance(last, Result) and all(isinstance(token, TraceToken) for token in tokens)
    assert tuple(token.id for token in tokens) == last.trace_ids == result.trace_ids  # type: ignore[union-attr]
    assert [token.index for token in tokens] == list(range(len(tokens)))  # type: ignore[union-attr]
    assert np.abs(last.vector - result.vector).max() < 1e-5


def test_leaving_a_stream_frees_its_request(embedder: Embedder) -> None:
    stream = embedder.stream("one two", role="query", think=Think(max_tokens=90))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    embedder.embed("after", role="query", think=False)  # the loop has passed the cancellation
    engine = embedder._pipeline.engine
    assert engine.idle and engine.pool.num_available == engine.pool.num_pages - 1


def test_in_a_batch_the_good_requests_come_back(embedder: Embedder) -> None:
    items = ["good", {"image": "missing.png"}, {"image": noise(1)}, "", {"picture": 1}]
    with pytest.raises(BatchError) as caught:
        embedder.embed(items, role="query", think=False)
    assert sorted(caught.value.errors) == [1, 3, 4]
    assert [result is None for result in caught.value.results] == [False, True, False, True, True]
    alone = embedder.embed("good", role="query", think=False)
    assert np.abs(caught.value.results[0].vector - alone.vector).max() < 1e-6
    returned = embedder.embed(items, role="query", think=False, errors="return")
    assert [isinstance(entry, Exception) for entry in returned] == [False, True, False, True, True]


def test_a_failing_tower_fails_only_its_own_request(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = embedder._pipeline.engine.runner
    works = runner._features
    bad = embedder._pipeline.renderer.media.pictures.read(noise(13)).key

    def features(spans: list[MediaSpan]) -> Any:
        if any(span.key == bad for span in spans):
            raise RuntimeError("the tower broke")
        return works(spans)

    monkeypatch.setattr(runner, "_features", features)
    items = [{"image": noise(1)}, {"image": noise(13)}, {"image": noise(2)}]
    first, broken, third = embedder.embed(items, role="query", think=False, errors="return")
    assert isinstance(first, Result) and isinstance(third, Result)
    assert isinstance(broken, RuntimeError)


def test_a_failing_tower_takes_all_traces_of_a_request_out_of_the_step(random_folder: Path) -> None:
    """Traces that found no room beside the first one prefill by themselves, two in one step, and one fails."""
    options: dict[str, Any] = {"prefix_cache": False, "max_batch_size": 3, "kernels": "torch"}
    with Embedder.from_pretrained(random_folder, **options) as embedder:
        engine = embedder._pipeline.engine
        works, calls = engine.runner._features, 0

        def features(spans: list[MediaSpan]) -> Any:
            nonlocal calls
            calls += 1
            if calls in (2, 3):  # of the two traces together, then of one of them alone
                raise RuntimeError("the tower broke")
            return works(spans)

        engine.runner._features = features
        engine.scheduler.fork = lambda *places: None  # type: ignore[method-assign]
        request = render(embedder, {"image": noise(1), "text": "x"})
        drawn = replace(request, num_traces=3, sampling=Sampling(temperature=1.0))
        failure, beside = drive(engine, [drawn, render(embedder, "one two three", max_tokens=12)])
        assert str(failure) == "the tower broke" and isinstance(beside, EngineResult), (failure, beside)


def test_a_failing_step_fails_its_requests_and_the_loop_lives(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = embedder._pipeline.engine
    with monkeypatch.context() as patch:
        patch.setattr(engine.runner, "forward", lambda batch, draws: 1 / 0)
        with pytest.raises(EngineError, match="ZeroDivisionError"):
            embedder.embed("one", role="query", think=False)
    assert embedder.embed("one", role="query", think=False).vector.shape == (64,)
    assert engine.idle and not engine.scheduler.running


def test_many_threads_share_one_engine(embedder: Embedder) -> None:
    alone = [embedder.embed(f"text {i}", role="query", think=Think(max_tokens=5)) for i in range(8)]
    together: dict[int, Result] = {}

    def work(i: int) -> None:
        together[i] = embedder.embed(f"text {i}", role="query", think=Think(max_tokens=5))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, result in enumerate(alone):
        assert together[i].trace_ids == result.trace_ids
        assert np.abs(together[i].vector - result.vector).max() < 1e-5


@pytest.mark.parametrize("where", ["scheduler.schedule", "add"])
def test_a_fault_outside_a_step_fails_those_in_work_and_the_loop_lives(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    engine = embedder._pipeline.engine
    *path, name = where.split(".")
    owner = engine.scheduler if path else engine
    works, faults = getattr(owner, name), 1

    def fault(*arguments: Any) -> Any:
        nonlocal faults
        faults -= 1
        if faults >= 0:
            raise RuntimeError("out of luck")
        return works(*arguments)

    monkeypatch.setattr(owner, name, fault)
    with pytest.raises(EngineError, match="out of luck"):
        embedder.embed("cat", role="query")
    assert engine.idle and not engine.scheduler.running
    assert embedder.embed("cat", role="query").vector.shape == (embedder.embedding_dim,)


def test_closing_fails_what_is_in_work(random_folder: Path) -> None:
    embedder = Embedder.from_pretrained(random_folder)
    stream = embedder.stream("one two", role="query", think=Think(max_tokens=90, temperature=1.0))
    next(stream)
    embedder.close()
    with pytest.raises(EngineError):
        list(stream)
    with pytest.raises(EngineError, match="closed"):
        embedder.embed("one", role="query")
    embedder.close()


def test_encode_in_the_habits_of_sentence_transformers(embedder: Embedder) -> None:
    with pytest.raises(OptionError, match="encode_query or encode_document"):
        embedder.encode(["a"])
    one = embedder.encode_query("a", think=False)
    many = embedder.encode_query(["a", "b", "c"], think=False, batch_size=2)
    assert one.shape == (64,) and many.shape == (3, 64) and many.dtype == np.float32
    assert embedder.encode_document([]).shape == (0, 64)
    short = embedder.encode_query(["a"], think=False, truncate_dim=8)
    assert short.shape == (1, 8) and np.linalg.norm(short[0]) == pytest.approx(1, abs=1e-6)
    raw = embedder.encode_query(["a"], think=False, normalize_embeddings=False)
    assert np.abs(raw[0] / np.linalg.norm(raw[0]) - one).max() < 1e-6 and np.linalg.norm(raw[0]) != 1
    tensor = embedder.encode_query(["a"], think=False, convert_to_tensor=True)
    assert tuple(tensor.shape) == (1, 64)
    similarity = Embedder.similarity(one, many)
    assert tuple(similarity.shape) == (1, 3) and float(similarity[0, 0]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"rolle": "query"},
        {"truncate_dim": 65},
        {"batch_size": 0},
        {"think": "yes"},
        {"priority": "urgent"},
        {"role": "passage"},
    ],
)
def test_unknown_and_impossible_options_are_refused(embedder: Embedder, options: dict[str, Any]) -> None:
    with pytest.raises((OptionError, TypeError)):
        embedder.encode(["a"], **{"role": "query", **options})
