"""Whatever lies in the slots that nobody has written, no bit of a vector moves; and who brings NaN falls alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_harness import Outcome, capture_decode, drive, render, spoil

from tte_runtime import Embedder
from tte_runtime.engine.engine import Engine
from tte_runtime.engine.request import EngineRequest, EngineResult, Readout, Sampling
from tte_runtime.errors import EngineError

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
SMALL = {"max_context": 208, "kv_cache_tokens": 320, "prefix_cache": False}
BEHIND = {"overlap": True, "max_prefill_tokens": 20}


def forked(request: EngineRequest) -> EngineRequest:
    return replace(request, num_traces=3, sampling=Sampling(temperature=1.2, seed=5))


def varied(embedder: Embedder, requests: list[Any]) -> list[EngineRequest]:
    """Prompts of many lengths, forks, snapshots, and every readout."""
    made = [render(embedder, item, role, limit) for item, role, limit in requests[:8]]
    made[2], made[5] = forked(made[2]), forked(made[5])
    made[6] = replace(made[6], snapshot_every=2)
    made[7] = replace(made[7], readout=Readout("mean"))
    return [*made, replace(made[3], readout=Readout("last")), made[3]]


def same_bits(ours: list[Outcome], theirs: list[Outcome]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert isinstance(one, EngineResult) and isinstance(other, EngineResult)
        assert one.traces == other.traces
        assert np.array_equal(one.vector, other.vector), "rubbish in an unwritten slot changed bits"


@pytest.mark.parametrize(
    ("options", "captured"),
    [({}, False), (SMALL, False), (BEHIND, False), (BEHIND, True)],
    ids=["in step", "preempting", "one behind", "captured"],
)
def test_unwritten_slots_are_never_read(
    random_folder: Path, requests: list[Any], options: dict[str, Any], captured: bool
) -> None:
    with Embedder.from_pretrained(random_folder, **{"max_context": 640, **options}) as embedder:
        engine = embedder._pipeline.engine
        if captured:
            capture_decode(engine)
        batch = varied(embedder, requests)
        cold, warm = drive(engine, batch), drive(engine, batch)  # the second finds pages
        assert bool(engine.scheduler.num_preempted) == (options is SMALL)
        embedder.clear_caches()
        for clean in (cold, warm):
            same_bits(drive(engine, batch, lambda: spoil(engine)), clean)


@pytest.fixture(params=[{}, {"overlap": True}], ids=["in step", "one behind"])
def embedder(request: pytest.FixtureRequest, random_folder: Path) -> Iterator[Embedder]:
    with Embedder.from_pretrained(random_folder, **request.param) as embedder:
        yield embedder


def close(ours: Outcome, theirs: Outcome) -> None:
    assert isinstance(ours, EngineResult) and isinstance(theirs, EngineResult)
    assert ours.trace_ids == theirs.trace_ids
    assert np.abs(ours.vector - theirs.vector).max() < 1e-5


def failed(outcome: Outcome) -> None:
    assert isinstance(outcome, EngineError) and "NaN or infinite" in str(outcome)


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_a_prompt_with_states_that_are_not_finite_fails_alone(embedder: Embedder, value: float) -> None:
    engine = embedder._pipeline.engine
    good, bad = render(embedder, "x y z"), render(embedder, LONG)
    expected = drive(engine, [good, good])
    token = bad.prompt_ids[20]  # on the second page
    assert token not in good.prompt_ids and token not in bad.prompt_ids[:16]
    with torch.inference_mode():
        before = engine.decoder.embed[token].clone()
        engine.decoder.embed[token] = value
    embedder.clear_caches()
    outcomes = drive(engine, [good, bad, good])
    failed(outcomes[1])
    close(outcomes[0], expected[0])
    close(outcomes[2], expected[1])
    for page, key in engine.pool._key_of.items():
        assert engine.runner.kv_pages[:, :, page].isfinite().all(), f"a page with NaN can be found as {key!r}"
    with torch.inference_mode():
        engine.decoder.embed[token] = before
    (again,) = drive(engine, [bad])
    embedder.clear_caches()
    close(again, drive(engine, [bad])[0])


def test_a_trace_whose_states_are_not_finite_ends_there(embedder: Embedder) -> None:
    engine = embedder._pipeline.engine
    good, bad = render(embedder, "x y z"), render(embedder, LONG, max_tokens=40)
    expected = drive(engine, [good, bad])
    close(expected[1], drive(engine, [bad])[0])
    assert isinstance(expected[0], EngineResult) and isinstance(expected[1], EngineResult)
    token = next(token for token in expected[1].trace_ids[2:] if token not in expected[0].trace_ids)
    at = expected[1].trace_ids.index(token)
    assert token not in good.prompt_ids + bad.prompt_ids and at < 30
    with torch.inference_mode():
        engine.decoder.embed[token] = float("nan")
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    outcomes = drive(engine, [good, bad], count)
    failed(outcomes[1])
    close(outcomes[0], expected[0])
    assert steps < max(at, good.max_trace_tokens) + 8, "it went on to its limit"


def test_a_fault_that_passes_leaves_nothing_in_the_cache(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN in the pages of one step only, as from a device's fault: an equal prompt after it is clean."""
    engine = embedder._pipeline.engine
    request = render(embedder, LONG)
    (expected,) = drive(engine, [request])
    embedder.clear_caches()
    works, faults = engine.runner.forward, 1

    def forward(batch: Any, draws: Any) -> Any:
        nonlocal faults
        output = works(batch, draws)
        if faults and not batch.decode:
            faults -= 1
            output.hidden.fill_(float("nan"))
            engine.runner.kv_pages[:, :, batch.chunks[0].sequence.pages] = float("nan")
        return output

    monkeypatch.setattr(engine.runner, "forward", forward)
    failed(drive(engine, [request])[0])
    (after,) = drive(engine, [request])
    close(after, expected)
    assert isinstance(after, EngineResult) and after.counts.cached == 0, "a page of the failed request was found"


def test_a_vector_that_is_not_finite_is_an_error(embedder: Embedder) -> None:
    """States are finite here: the head makes NaN of them."""
    engine = embedder._pipeline.engine
    good = replace(render(embedder, "x y z"), readout=Readout("last"))
    bad = render(embedder, LONG)
    expected = drive(engine, [good])
    assert engine.head is not None
    with torch.inference_mode():
        engine.head.norm.fill_(float("nan"))
    outcomes = drive(engine, [good, bad])
    close(outcomes[0], expected[0])
    failed(outcomes[1])


def test_these_tests_spoil_what_they_say(random_folder: Path) -> None:
    with Embedder.from_pretrained(random_folder) as embedder:
        engine: Engine = embedder._pipeline.engine
        spoil(engine)
        assert engine.runner.taps is not None
        for pages in (engine.runner.kv_pages, engine.runner.taps.pages):
            assert not pages.isfinite().any() and pages.isnan().any() and pages.isinf().any()
