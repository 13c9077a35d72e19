"""Several decode steps in one compiled call: the same tokens, bits, counts and news as step by step; and who may."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine_harness import drive, render

from tte_runtime import Embedder, Think
from tte_runtime.engine.request import EngineRequest, Listener, Sampling
from tte_runtime.engine.runner import Runner

pytest.importorskip("numba")
ITEMS = ["one", "a longer text, to be read before anything is said", "two words"]


@pytest.fixture(scope="module")
def embedder(random_folder: Path) -> Iterator[Embedder]:
    with Embedder.from_pretrained(random_folder, threads=1, prefix_cache=False) as one:
        yield one


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps made by every call of the decoder's walk."""
    steps: list[int] = []
    forward = Runner.forward

    def counted(self: Runner, *args: Any) -> Any:
        output = forward(self, *args)
        if output.walked:
            steps.append(len(output.walked) + 1)
        return output

    monkeypatch.setattr(Runner, "forward", counted)
    return steps


def outcomes(embedder: Embedder, requests: list[EngineRequest]) -> list[Any]:
    results: list[Any] = drive(embedder._pipeline.engine, requests)
    return [(r.vector.tobytes(), r.trace_ids, r.finish_reason, r.forced_by, r.counts) for r in results]


@pytest.mark.parametrize("limit", [1, 2, 15, 40])
@pytest.mark.parametrize("count", [1, 3])
def test_a_walk_changes_nothing(
    embedder: Embedder, walked: list[int], monkeypatch: pytest.MonkeyPatch, limit: int, count: int
) -> None:
    requests = [render(embedder, item, max_tokens=limit) for item in ITEMS[:count]]
    together = outcomes(embedder, requests)
    assert bool(walked) == (limit > 2), "the first token is drawn from the prompt"
    monkeypatch.setattr(Runner, "_longest_walk", lambda *_: 1)
    walked.clear()
    assert outcomes(embedder, requests) == together
    assert not walked


def test_a_walk_ends_with_the_token_that_ends_a_trace(embedder: Embedder, walked: list[int]) -> None:
    request = render(embedder, "one", max_tokens=30)
    whole = outcomes(embedder, [request])[0][1]
    stop = next(token for token in whole[3:] if token not in whole[:3])
    at = whole.index(stop) + 1
    _, trace, reason, forced, counts = outcomes(embedder, [replace(request, stop_ids=frozenset({stop}))])[0]
    assert (trace, reason, forced) == (whole[:at], "stop", None)
    assert counts.computed == counts.prompt + at + counts.suffix, "nothing was fed behind it"


def test_a_stop_of_one_trace_is_a_token_like_any_other_to_its_neighbour(embedder: Embedder, walked: list[int]) -> None:
    """A walk ends with the stop of either, and goes on for the other."""
    requests = [replace(render(embedder, text, max_tokens=30), stop_ids=frozenset()) for text in ("one", "two")]
    whole = [outcome[1] for outcome in outcomes(embedder, requests)]
    stop = next(token for token in whole[0][3:] if token not in whole[0][:3])
    walked.clear()
    ended, other = outcomes(embedder, [replace(requests[0], stop_ids=frozenset({stop})), requests[1]])
    mirrored, _ = outcomes(embedder, [requests[0], replace(requests[1], stop_ids=frozenset({stop}))])
    assert walked and ended[1] == whole[0][: whole[0].index(stop) + 1] and ended[2] == "stop"
    assert (other[1], other[2]) == (whole[1], "forced")
    assert (mirrored[1], mirrored[2]) == (whole[0], "forced"), "it was ended by its neighbour's stop"


def test_listeners_hear_every_token_in_order(embedder: Embedder, walked: list[int]) -> None:
    engine, news = embedder._pipeline.engine, []  # type: ignore[var-annotated]
    take = lambda outcome: None  # noqa: E731
    engine.add(render(embedder, "one", max_tokens=20), Listener(take, take, lambda *token: news.append(token)))
    while not engine.idle:
        engine.step()
    assert walked and [index for index, _ in news] == list(range(20))


@pytest.mark.parametrize(
    "watched",
    [{"deadline": 1e12}, {"snapshot_every": 4}, {"sampling": Sampling(1.0, 0, 1.0, 3)}],
    ids=["deadline", "snapshots", "drawn"],
)
def test_whoever_has_to_be_looked_at_goes_step_by_step(
    embedder: Embedder, walked: list[int], watched: dict[str, Any]
) -> None:
    drive(embedder._pipeline.engine, [replace(render(embedder, "one", max_tokens=12), **watched)])
    assert not walked


def test_large_models_and_other_dtypes_do_not_walk(random_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Embedder.from_pretrained(random_folder, dtype="bfloat16") as rounded:
        assert rounded._pipeline.engine.decoder.longest_walk(1) == 1
    with Embedder.from_pretrained(random_folder) as exact:
        decoder = exact._pipeline.engine.decoder
        assert decoder.longest_walk(1) > decoder.longest_walk(40) > 1
        monkeypatch.setattr("tte_runtime.ops.rows.stack.A_WALK", 1000)
        assert decoder.longest_walk(1) == 1


def test_it_streams(embedder: Embedder, walked: list[int]) -> None:
    plain = embedder.embed("one", role="query", think=Think(max_tokens=20))
    assert walked and len(plain.trace_ids) == 20
