"""The runtime against plain transformers in fp32: the same greedy trace, the same vector within 1e-5 elementwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tte_runtime import Embedder, Result, Think
from tte_runtime.evaluation.plain import PlainEmbedder, PlainResult

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def plain(random_folder: Path, requests: list[Any]) -> list[PlainResult]:
    baseline = PlainEmbedder.from_pretrained(random_folder)
    return [baseline.embed(item, role=role, think=Think(max_tokens=limit)) for item, role, limit in requests]


def run_all(embedder: Embedder, requests: list[Any], *, together: bool) -> list[Result]:
    """Every request, one after another or all at once."""

    def submit(item: Any, role: Any, limit: int) -> Any:
        from tte_runtime.inputs.items import parse_item

        think = Think(max_tokens=limit) if limit else None
        return embedder._pipeline.submit(parse_item(item), role, think, priority="interactive", normalize=True)

    if not together:
        return [embedder.embed(item, role=role, think=Think(max_tokens=limit)) for item, role, limit in requests]
    pending = [submit(*request) for request in requests]
    return [embedder._result(one.result()) for one in pending]


def assert_equal(results: list[Result], plain: list[PlainResult]) -> None:
    for index, (ours, theirs) in enumerate(zip(results, plain, strict=True)):
        assert ours.trace_ids == theirs.trace_ids, f"request {index}: another trace"
        worst = float(np.abs(ours.vector - theirs.vector).max())
        assert worst <= TOLERANCE, f"request {index}: off by {worst}"
        counts = ours.counts
        total = counts.prompt + counts.trace + counts.suffix
        assert counts.computed - counts.replayed + counts.cached == total, "every token is computed once or cached"


def test_the_requests_are_varied(requests: list[Any], plain: list[PlainResult]) -> None:
    assert len(requests) >= 50
    assert len({result.trace_ids for result in plain}) > 30
    tokens = [token for result in plain for token in result.trace_ids]
    assert len(set(tokens)) > 60, "a comparison of traces that repeat one token proves little"


@pytest.mark.parametrize("together", [False, True], ids=["alone", "together"])
@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_cold_and_warm(
    random_folder: Path, requests: list[Any], plain: list[PlainResult], chunk: int, together: bool
) -> None:
    with Embedder.from_pretrained(random_folder, max_prefill_tokens=chunk, max_batch_size=16) as embedder:
        cold = run_all(embedder, requests, together=together)
        assert_equal(cold, plain)
        warm = run_all(embedder, requests, together=together)
        assert_equal(warm, plain)
        assert sum(r.counts.cached for r in warm) > sum(r.counts.prompt for r in warm) / 2
        assert sum(r.counts.vision for r in warm) == 0, "no picture goes through the tower twice"


def test_under_preemption(random_folder: Path, requests: list[Any], plain: list[PlainResult]) -> None:
    options = {"max_context": 208, "kv_cache_tokens": 320, "max_batch_size": 8, "prefix_cache": False}
    with Embedder.from_pretrained(random_folder, **options) as embedder:
        results = run_all(embedder, requests, together=True)
        assert_equal(results, plain)
        assert embedder._pipeline.engine.scheduler.num_preempted > 0, "the pool was not small enough to tell"
        assert sum(r.counts.replayed for r in results) > 0


def test_the_same_bits_however_it_is_scheduled(
    random_folder: Path, requests: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU in float32: alone and together, in any chunks, cold and warm, preempted, on one thread and on two."""
    pytest.importorskip("numba")
    for limit in ("WORTH_DIVIDING", "WORTH_SHARING"):
        monkeypatch.setattr(f"tte_runtime.ops.rows.team.{limit}", 0)
    ways: list[dict[str, Any]] = [
        {"threads": 1},
        {"threads": 2, "max_prefill_tokens": 7},
        {"threads": 2, "max_prefill_tokens": 1, "max_batch_size": 16},
        {"threads": 1, "max_context": 208, "kv_cache_tokens": 320, "max_batch_size": 8, "prefix_cache": False},
    ]
    wanted: list[bytes] = []
    for number, options in enumerate(ways):
        with Embedder.from_pretrained(random_folder, **options) as embedder:
            for together in (number > 0, True):  # the second time from caches, where there are any
                got = [result.vector.tobytes() for result in run_all(embedder, requests[::2], together=together)]
                wanted = wanted or got
                assert got == wanted, f"{options}, together={together}"
            preempted = embedder._pipeline.engine.scheduler.num_preempted
    assert preempted > 0, "the last pool was not small enough to tell"


def test_one_pass_baseline_agrees(random_folder: Path, requests: list[Any], plain: list[PlainResult]) -> None:
    baseline = PlainEmbedder.from_pretrained(random_folder)
    for (item, role, limit), two in list(zip(requests, plain, strict=True))[::5]:
        one = baseline.embed(item, role=role, think=Think(max_tokens=limit), passes="one")
        assert one.trace_ids == two.trace_ids
        assert np.abs(one.vector - two.vector).max() <= TOLERANCE
        assert one.computed <= two.computed


def test_last_token_recipe(random_folder: Path, requests: list[Any]) -> None:
    baseline = PlainEmbedder.from_pretrained(random_folder, recipe="last_token")
    with Embedder.from_pretrained(random_folder, recipe="last_token") as embedder:
        items = [item for item, _, _ in requests[:12]]
        vectors = embedder.encode(items)
        for item, vector in zip(items, vectors, strict=True):
            expected = baseline.embed(item, role="query").vector
            assert np.abs(vector - expected).max() <= TOLERANCE


def test_the_bundled_model(requests: list[Any]) -> None:
    baseline = PlainEmbedder.from_pretrained("tte-tiny")
    with Embedder.from_pretrained("tte-tiny") as embedder:
        for item, role, limit in requests[:8]:
            theirs = baseline.embed(item, role=role, think=Think(max_tokens=limit))
            ours = embedder.embed(item, role=role, think=Think(max_tokens=limit))
            assert ours.trace_ids == theirs.trace_ids
            assert np.abs(ours.vector - theirs.vector).max() <= TOLERANCE


def test_bfloat16_stays_close(random_folder: Path, requests: list[Any]) -> None:
    """On fixed traces (none), bf16 of ours is as close to fp32 as bf16 of transformers, within a factor of two."""
    import torch

    exact = PlainEmbedder.from_pretrained(random_folder)
    rounded = PlainEmbedder.from_pretrained(random_folder, dtype=torch.bfloat16)
    ours, theirs = [], []
    with Embedder.from_pretrained(random_folder, dtype="bfloat16") as embedder:
        for item, role, _ in requests[:16]:
            truth = exact.embed(item, role=role, think=False).vector
            theirs.append(np.abs(rounded.embed(item, role=role, think=False).vector - truth).max())
            ours.append(np.abs(embedder.embed(item, role=role, think=False).vector - truth).max())
    assert np.mean(ours) <= 2 * np.mean(theirs)
