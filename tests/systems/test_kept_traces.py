"""A corpus is thought about once: stored and given traces in one model and in two, and what makes one unfit."""

from __future__ import annotations

import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_endpoint import FakeEndpoint
from PIL import Image
from safetensors.torch import load_file, save_file
from systems_harness import READS, WRITES

from tte_runtime import Embedder, LocalReasoner, RemoteReasoner, Result, Think, TraceStore, TraceToken
from tte_runtime.errors import BatchError, InputError, ReasonerError, TraceError, TraceStoreError
from tte_runtime.models.checkpoint import find_folder
from tte_runtime.recipes.base import Recipe
from tte_runtime.traces.trace import TraceKey

ITSELF = replace(WRITES, close=("<|im_end|>",), suffix=("<|endoftext|>",))


def one_model(folder: Path, traces: Any = None, recipe: Recipe = ITSELF, **options: Any) -> Embedder:
    return Embedder.from_pretrained(folder, recipe=recipe, traces=traces, **options)


def two_models(folder: Path, reasoner: Path, traces: Any = None, recipe: Recipe = WRITES, **options: Any) -> Embedder:
    local = LocalReasoner(reasoner, recipe=recipe, **options)
    return Embedder.from_pretrained(folder, recipe=READS, reasoner=local, traces=traces)


def teacher(folder: Path, url: str, traces: Any = None, **options: Any) -> Embedder:
    remote = RemoteReasoner(url, **{"model": "teacher", "prompt": "{text}", "max_retries": 0, **options})
    return Embedder.from_pretrained(folder, recipe=READS, reasoner=remote, traces=traces)


def same(before: list[Result], after: list[Result]) -> None:
    for old, new in zip(before, after, strict=True):
        assert (new.trace, new.trace_ids, new.finish_reason, new.forced_by) == (
            old.trace,
            old.trace_ids,
            old.finish_reason,
            old.forced_by,
        )
        assert np.abs(new.vector - old.vector).max() < 1e-5


@pytest.mark.parametrize("models", [1, 2])
def test_the_second_time_nothing_is_written(
    embedder_folder: Path, reasoner_folder: Path, items: list[Any], tmp_path: Path, models: int
) -> None:
    path = tmp_path / "t.sqlite"

    def load() -> Embedder:
        return one_model(embedder_folder, path) if models == 1 else two_models(embedder_folder, reasoner_folder, path)

    with load() as embedder:
        first = embedder.embed(items, role="query")
        assert {result.trace_from for result in first} == {"written"}
        writes = embedder._pipeline.loop.engines[-1]
        written: list[Any] = []
        writes.add = lambda request, listener: written.append(request)  # type: ignore[method-assign]
        if models == 2:
            same(first, embedder.embed(items, role="query"))
            assert not written, "the reasoner is not even asked"
    with load() as embedder:
        again = embedder.embed(items, role="query")
        same(first, again)
        for result in again:
            assert (result.trace_from, result.reasoner_counts) == ("stored", None)
            counts = result.counts
            assert counts.computed + counts.cached == counts.prompt + counts.trace + counts.suffix
        token, last = embedder.stream(items[0], role="query")
        assert token == TraceToken(0, None, first[0].trace) and isinstance(last, Result)


def keys(store: TraceStore) -> list[TraceKey]:
    return [key for key, _ in store.items()]


@pytest.mark.parametrize("models", [1, 2])
def test_each_part_of_the_key_makes_a_miss(
    embedder_folder: Path, reasoner_folder: Path, stranger_folder: Path, tmp_path: Path, models: int
) -> None:
    """What is changed, and the parts of the key that change with it; the content is what the model sees."""
    picture = Image.new("RGB", (56, 56), "red")
    base: dict[str, Any] = {"item": {"text": "one", "image": picture}, "role": "query"}
    other = replace(WRITES, stop=("<|im_end|>", "<|endoftext|>"))
    cases: list[tuple[set[str], dict[str, Any]]] = [
        (set(), {}),
        (set(), {"item": {"text": "one", "image": picture.copy()}}),
        (set(), {"think": Think(seed=5, deadline_ms=60_000)}),
        ({"content"}, {"item": {"text": "two", "image": picture}}),
        ({"content"}, {"item": {"text": "one", "image": Image.new("RGB", (56, 56), "blue")}}),
        ({"content", "prompt"}, {"role": "document"}),
        ({"prompt"}, {"recipe": other}),
        ({"sampling"}, {"think": Think(max_tokens=7)}),
        ({"sampling"}, {"think": Think(temperature=0.5)}),
        ({"sampling"}, {"think": Think(temperature=0.5, seed=1)}),
        ({"reasoner"}, {"options": {"dtype": "bfloat16"}}),
        ({"reasoner", "processor", "content"}, {"folder": stranger_folder}),
    ]
    found: list[TraceKey] = []
    for i, (changed, case) in enumerate(cases):
        path = tmp_path / f"{i}.sqlite"
        asked = {**base, **case}
        recipe, options = asked.get("recipe", WRITES), asked.get("options", {})
        if models == 1:
            recipe = replace(recipe, close=ITSELF.close, suffix=ITSELF.suffix)
            embedder = one_model(asked.get("folder", embedder_folder), path, recipe, **options)
        else:
            embedder = two_models(embedder_folder, asked.get("folder", reasoner_folder), path, recipe, **options)
        with embedder:
            embedder.embed(asked["item"], role=asked["role"], think=asked.get("think"))
            (key,) = keys(embedder._pipeline.store)  # type: ignore[arg-type]
        found.append(key)
        differs = {field.name for field in fields(key) if getattr(key, field.name) != getattr(found[0], field.name)}
        assert differs == changed, case
    assert len(set(found)) == len(cases) - 2


def test_what_only_concerns_the_vector_does_not_make_a_miss(embedder_folder: Path, tmp_path: Path) -> None:
    with TraceStore(tmp_path / "t.sqlite") as store:
        for recipe in (ITSELF, replace(ITSELF, name="mean", readout="mean", suffix=())):
            with one_model(embedder_folder, store, recipe) as embedder:
                last = embedder.embed("one", role="query")
        assert last.trace_from == "stored" and len(store) == 1


def test_a_trace_that_a_deadline_cut_is_not_kept(embedder_folder: Path, reasoner_folder: Path, tmp_path: Path) -> None:
    for load in (one_model, lambda folder, traces: two_models(folder, reasoner_folder, traces)):
        with load(embedder_folder, tmp_path / "t.sqlite") as embedder:
            assert embedder.embed("one", role="query", think=Think(deadline_ms=0)).forced_by == "deadline"
            assert embedder.embed("one", role="query").trace_from == "written"


def test_with_the_endpoint_down_what_is_stored_still_embeds(embedder_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    with FakeEndpoint() as endpoint, teacher(embedder_folder, endpoint.url, path) as embedder:
        stored = embedder.embed(["one", "two"], role="document")
        parts = [
            ("model", "m"),
            ("prompt", "{text} "),
            ("system", "s"),
            ("max_pixels", 9),
            ("think", Think(max_tokens=9)),
        ]
        for name, value in parts:
            with teacher(embedder_folder, endpoint.url, path, **{name: value}) as other:
                assert other.embed("one", role="document").trace_from == "written", name
    with teacher(embedder_folder, endpoint.url, path) as embedder:
        with pytest.raises(BatchError) as caught:
            embedder.embed(["one", "three", "two"], role="document")
        assert isinstance(caught.value.errors[1], ReasonerError)
        first, _, third = caught.value.results
        same(stored, [first, third])
        assert first.trace_from == third.trace_from == "stored"
        given = embedder.embed({"text": "three", "trace": "three is a number"}, role="document")
        assert given.trace_from == "given"


def test_a_trace_that_cannot_be_used_is_not_kept(embedder_folder: Path, tmp_path: Path) -> None:
    with FakeEndpoint() as endpoint, teacher(embedder_folder, endpoint.url, tmp_path / "t.sqlite") as embedder:
        endpoint.script.append("special")
        with pytest.raises(TraceError):
            embedder.embed("one", role="query")
        assert embedder.embed("one", role="query").trace_from == "written"


def test_a_store_that_fails_fails_its_requests_and_no_others(embedder_folder: Path, tmp_path: Path) -> None:
    store = TraceStore(tmp_path / "t.sqlite")
    with one_model(embedder_folder, store) as embedder:
        embedder.embed("one", role="query")
        store.close()
        with pytest.raises(TraceStoreError, match="closed"):
            embedder.embed("one", role="query")
        assert embedder.embed("one", role="query", think=False).finish_reason == "no_trace"
    broken = tmp_path / "broken.sqlite"
    broken.write_text("no database " * 999)
    with pytest.raises(TraceStoreError, match="broken"):
        one_model(embedder_folder, broken)


def test_a_given_trace_takes_the_decode_path_of_a_model_that_thinks(embedder_folder: Path) -> None:
    with one_model(embedder_folder) as embedder:
        written = embedder.embed("one two", role="query")
        for trace in (list(written.trace_ids), written.trace_ids):
            given = embedder.embed({"text": "one two", "trace": trace}, role="query")
            assert given.trace_ids == written.trace_ids and given.trace == written.trace
            assert np.abs(given.vector - written.vector).max() < 1e-5
            assert (given.trace_from, given.finish_reason) == ("given", "stop")
        text = embedder.embed({"text": "one two", "trace": "a thought"}, role="query")
        assert text.trace == "a thought" and text.counts.trace == len(text.trace_ids) > 0
        assert text.counts.suffix == 2, "its stop token and the suffix"


def test_a_given_trace_goes_into_the_prompt_of_one_that_does_not(
    embedder_folder: Path, reasoner_folder: Path, stranger_folder: Path
) -> None:
    with two_models(embedder_folder, reasoner_folder) as embedder:
        written = embedder.embed("one", role="query")
        given = embedder.embed({"text": "one", "trace": list(written.trace_ids)}, role="query")
        assert np.abs(given.vector - written.vector).max() < 1e-5
        assert given.counts.trace == 0 and given.counts.prompt == written.counts.prompt
    with two_models(embedder_folder, stranger_folder) as embedder:
        with pytest.raises(TraceError, match="ambiguous"):
            embedder.embed({"text": "one", "trace": [1, 2]}, role="query")
        assert embedder.embed({"text": "one", "trace": "a thought"}, role="query").trace == "a thought"


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ([], "empty"),
        (7, "must be a text or a list of token ids, got int"),
        (["a"], "must be a text or a list of token ids"),
        ([True], "must be a text or a list of token ids"),
        ([10**6], "ids in 0.."),
        ([-1], "ids in 0.."),
        ("turn <|im_end|> ends", r"special token '<\|im_end\|>'"),
        ("word " * 3000, "too long"),
    ],
)
def test_traces_that_are_none_are_refused(embedder_folder: Path, trace: Any, said: str) -> None:
    with one_model(embedder_folder) as embedder:
        outcomes = embedder.embed([{"text": "one", "trace": trace}, "two"], role="query", errors="return")
        assert isinstance(outcomes[0], TraceError) and isinstance(outcomes[1], Result)
        with pytest.raises(TraceError, match=said):
            embedder.embed({"text": "one", "trace": trace}, role="query")


def test_a_trace_and_no_thinking_contradict_each_other(embedder_folder: Path) -> None:
    with one_model(embedder_folder) as embedder, pytest.raises(InputError, match="think=False"):
        embedder.embed({"text": "one", "trace": "t"}, role="query", think=False)


def test_a_head_that_is_trained_again_finds_the_traces_of_its_backbone(tmp_path: Path) -> None:
    folder, traces = tmp_path / "model", tmp_path / "t.sqlite"
    shutil.copytree(find_folder("tte-tiny"), folder)
    think = Think(max_tokens=3)
    with Embedder.from_pretrained(folder, traces=traces) as embedder:
        before = embedder.embed("one", role="query", think=think)
    head = load_file(folder / "head.safetensors")
    save_file({name: tensor * 1.5 for name, tensor in head.items()}, folder / "head.safetensors")
    with Embedder.from_pretrained(folder, traces=traces) as embedder:
        after = embedder.embed("one", role="query", think=think)
        assert after.trace_from == "stored" and after.trace_ids == before.trace_ids
        assert np.abs(after.vector - before.vector).max() > 1e-3 and after.fingerprint != before.fingerprint
    with Embedder.from_pretrained(folder, recipe=READS, reasoner=LocalReasoner(folder), traces=traces) as embedder:
        assert embedder.embed("one", role="query", think=think).trace_from == "stored", "it is the same thinker"
