"""TTE_t over HTTP: what is sent, what an answer becomes, and everything that can go wrong at the other end."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_endpoint import FakeEndpoint
from PIL import Image
from systems_harness import READS, encode

from tte_runtime import Embedder, RemoteReasoner, Result, Think, TraceToken
from tte_runtime.errors import EngineError, OptionError, ReasonerError, TraceError
from tte_runtime.evaluation.plain import PlainEmbedder
from tte_runtime.inputs.items import parse_item


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    with FakeEndpoint() as endpoint:
        yield endpoint


def system(folder: Path, endpoint: FakeEndpoint, *, traces: Any = None, **options: Any) -> Embedder:
    options = {"model": "teacher", "prompt": "{text}", "max_retries": 2, **options}
    return Embedder.from_pretrained(
        folder, recipe=READS, reasoner=RemoteReasoner(endpoint.url, **options), traces=traces
    )


def test_the_trace_is_embedded_as_plain_transformers_do(
    embedder_folder: Path, endpoint: FakeEndpoint, items: list[Any]
) -> None:
    reader = PlainEmbedder.from_pretrained(embedder_folder, recipe=READS)
    with system(embedder_folder, endpoint) as embedder:
        for item, result in zip(items, embedder.embed(items, role="query"), strict=True):
            words = item if isinstance(item, str) else item["text"]
            count = 0 if isinstance(item, str) else len(item.get("images", [1]))
            assert result.trace == f"<think>{count} pictures, seed 0</think> {words.split()[0]}"
            ids = reader.renderer.tokenizer.encode(result.trace, add_special_tokens=False)
            assert np.abs(result.vector - encode(reader, item, "query", ids)).max() < 1e-5
            assert (result.finish_reason, result.trace_from, result.trace_ids) == ("stop", "written", ())
            assert result.reasoner_counts is not None
            assert (result.reasoner_counts.prompt, result.reasoner_counts.trace) == (40, 7)


def test_what_is_sent(embedder_folder: Path, endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))
    asked = {"system": "be brief", "extra": {"min_p": 0.1}, "prompt": "look: {text}", "max_pixels": 600}
    monkeypatch.setenv("OPENAI_API_KEY", "from the environment")
    with system(embedder_folder, endpoint, **asked) as embedder:
        think = Think(max_tokens=9, temperature=0.5, top_p=0.9, top_k=3, seed=4)
        embedder.embed({"image": picture, "text": "{text} is braces"}, role="query", think=think)
        embedder.embed("x", role="document", think=True)
    first, second = endpoint.bodies
    assert first["messages"][0] == {"role": "system", "content": "be brief"}
    image, text = first["messages"][1]["content"]
    assert text == {"type": "text", "text": "look: {text} is braces"}
    kind, data = image["image_url"]["url"].split(",")
    assert kind == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (30, 20)
    sampling = ("max_tokens", "temperature", "top_p", "top_k", "seed", "min_p")
    assert [first[name] for name in sampling] == [9, 0.5, 0.9, 3, 4, 0.1]
    assert [second.get(name) for name in sampling] == [1024, 0.0, 1.0, None, 0, 0.1]
    assert endpoint.keys[0] == "Bearer from the environment"


@pytest.mark.parametrize("failures", [[429, 500], [503]])
def test_failures_before_the_first_piece_are_tried_again(
    embedder_folder: Path, endpoint: FakeEndpoint, failures: list[int]
) -> None:
    endpoint.script.extend(failures)
    with system(embedder_folder, endpoint) as embedder:
        assert embedder.embed("one", role="query").finish_reason == "stop"
    assert len(endpoint.bodies) == len(failures) + 1


@pytest.mark.parametrize(
    ("behaviour", "error", "said"),
    [
        (500, ReasonerError, "told to say 500"),
        (401, ReasonerError, "the key"),
        ("empty", ReasonerError, "empty trace"),
        ("special", TraceError, r"special token '<\|image_pad\|>'"),
        ("filtered", ReasonerError, "content_filter"),
        ("broken", ReasonerError, "broke off after 1 pieces"),
        ("garbage", ReasonerError, "failed"),
        ("no_stream", ReasonerError, "can stream"),
        ("too_long", TraceError, "too long"),
    ],
)
def test_a_bad_answer_is_a_typed_error_and_harms_no_neighbour(
    embedder_folder: Path, endpoint: FakeEndpoint, behaviour: Any, error: type[Exception], said: str
) -> None:
    with system(embedder_folder, endpoint, max_retries=0, max_concurrency=1) as embedder:
        alone = embedder.embed("good", role="query")
        endpoint.script.append(behaviour)
        with pytest.raises(error, match=said):
            embedder.embed("bad", role="query", think=Think(max_tokens=400))
        endpoint.script.append(behaviour)
        outcomes = embedder.embed(["bad", "good"], role="query", errors="return", think=Think(max_tokens=400))
        failed = [outcome for outcome in outcomes if isinstance(outcome, error)]
        assert len(failed) == 1 and len([outcome for outcome in outcomes if isinstance(outcome, Result)]) == 1
        assert np.abs(embedder.embed("good", role="query").vector - alone.vector).max() < 1e-6


def test_limits_are_kept_for_an_endpoint_that_does_not(embedder_folder: Path, endpoint: FakeEndpoint) -> None:
    endpoint.script.extend(["too_long", "cut"])
    with system(embedder_folder, endpoint) as embedder:
        for _ in range(2):
            result = embedder.embed("one", role="query", think=Think(max_tokens=5))
            assert (result.finish_reason, result.forced_by) == ("forced", "max_tokens")
            assert len(result.trace) <= 16 * 5 + 5


def test_thoughts_that_the_server_parts_from_the_answer(embedder_folder: Path, endpoint: FakeEndpoint) -> None:
    endpoint.script.extend(["parted", "parted"])
    with system(embedder_folder, endpoint) as embedder:
        assert embedder.embed("one", role="query").trace == "<think>a b</think> c d"
        *pieces, result = embedder.stream("one", role="query")
        assert isinstance(result, Result) and all(isinstance(p, TraceToken) and p.id is None for p in pieces)
        assert "".join(piece.text for piece in pieces) == result.trace  # type: ignore[union-attr]
        assert [piece.index for piece in pieces] == [0, 1, 2, 3]  # type: ignore[union-attr]


def test_nobody_is_there(embedder_folder: Path) -> None:
    with FakeEndpoint() as gone:
        pass
    with system(embedder_folder, gone, max_retries=0) as embedder:
        with pytest.raises(ReasonerError, match=r"'teacher' at http://127.0.0.1.*APIConnectionError"):
            embedder.embed("one", role="query")
        assert embedder.embed("one", role="query", think=False).finish_reason == "no_trace"


def test_silence_is_a_timeout(embedder_folder: Path, endpoint: FakeEndpoint) -> None:
    endpoint.script.append("held")
    with (
        system(embedder_folder, endpoint, timeout=0.2, max_retries=0) as embedder,
        pytest.raises(ReasonerError, match="Timeout"),
    ):
        embedder.embed("one", role="query")


def test_a_deadline_takes_the_trace_as_far_as_it_has_come(embedder_folder: Path, endpoint: FakeEndpoint) -> None:
    endpoint.script.extend(["held"] * 4)
    with system(embedder_folder, endpoint, max_concurrency=1) as embedder:
        for milliseconds in (500, 2000, 8000):  # a busy machine may not have come as far as the first piece
            result = embedder.embed("one", role="query", think=Think(deadline_ms=milliseconds))
            if result.trace:
                break
        assert (result.trace, result.finish_reason, result.forced_by) == ("half ", "forced", "deadline")
        result = embedder.embed("one", role="query", think=Think(deadline_ms=0))
        assert (result.trace, result.finish_reason, result.forced_by) == ("", "forced", "deadline")
        assert np.linalg.norm(result.vector) == pytest.approx(1, abs=1e-6)


def test_calls_are_limited_and_interactive_ones_go_first(embedder_folder: Path, endpoint: FakeEndpoint) -> None:
    with system(embedder_folder, endpoint, max_concurrency=2) as embedder:
        endpoint.script.extend(["held"] * 2)
        pipeline = embedder._pipeline
        corpus = [
            pipeline.submit(parse_item(f"c{i}"), "document", Think(), priority="corpus", normalize=True)
            for i in range(4)
        ]
        assert endpoint.entered.acquire(timeout=30) and endpoint.entered.acquire(timeout=30)
        while len(pipeline.writer._endpoint._slots._waiting) < 2:  # type: ignore[union-attr]
            threading.Event().wait(0.01)
        urgent = pipeline.submit(parse_item("u"), "query", Think(), priority="interactive", normalize=True)
        while len(pipeline.writer._endpoint._slots._waiting) < 3:  # type: ignore[union-attr]
            threading.Event().wait(0.01)
        endpoint.open.set()
        for pending in [*corpus, urgent]:
            pending.result()
    sent = [body["messages"][-1]["content"][-1]["text"] for body in endpoint.bodies]
    assert endpoint.most_inside == 2
    assert sent.index("u") in (2, 3), sent


def test_leaving_a_stream_and_closing_hang_up(embedder_folder: Path, endpoint: FakeEndpoint) -> None:
    endpoint.script.extend(["held", "held"])
    embedder = system(embedder_folder, endpoint, max_concurrency=1)
    stream = embedder.stream("one", role="query")
    assert next(stream).text == "half "  # type: ignore[union-attr]
    stream.close()  # type: ignore[attr-defined]
    second = embedder.stream("two", role="query")  # there is only one slot: it was given back
    assert next(second).text == "half "  # type: ignore[union-attr]
    embedder.close()
    with pytest.raises(EngineError, match="closed"):
        list(second)
    assert not [thread for thread in threading.enumerate() if thread.name == "tte-reasoner"]
    embedder.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"url": "localhost:8000"}, "http"),
        ({"prompt": "no place"}, "{text} exactly once"),
        ({"max_concurrency": 0}, "max_concurrency must be at least 1"),
        ({"max_retries": -1}, "max_retries"),
        ({"timeout": 0}, "timeout"),
        ({"roles": ("judge",)}, "judge"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        RemoteReasoner(**{"url": "http://localhost/v1", "model": "m", **options})


def test_the_fingerprint_is_of_the_model_not_of_the_place(embedder_folder: Path, endpoint: FakeEndpoint) -> None:
    def fingerprint(url: str = endpoint.url, **options: Any) -> str:
        reasoner = RemoteReasoner(url, **{"model": "teacher", **options})
        with Embedder.from_pretrained(embedder_folder, recipe=READS, reasoner=reasoner) as embedder:
            return embedder.fingerprint

    assert fingerprint() == fingerprint("https://elsewhere/v1") == fingerprint(timeout=3)
    others = [{"model": "m"}, {"system": "s"}, {"think": Think(temperature=1)}, {"extra": {"a": 1}}]
    assert len({fingerprint(**other) for other in [{}, *others]}) == 5  # type: ignore[arg-type]
