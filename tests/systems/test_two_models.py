"""TTE_s against plain transformers in fp32: the same greedy trace, the same vector; what is shared is computed once."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from systems_harness import READS, WRITES, Expected, encode, two_models

from tte_runtime import Embedder, Result, Think, TraceToken
from tte_runtime.errors import ContextError, EngineError, OptionError, RecipeError, TraceError
from tte_runtime.evaluation.plain import PlainEmbedder
from tte_runtime.inputs.items import parse_item
from tte_runtime.reasoners.local import LocalReasoner

TOLERANCE = 1e-5


def system(embedder: Path, reasoner: Path, **options: Any) -> Embedder:
    return Embedder.from_pretrained(
        embedder, recipe=READS, reasoner=LocalReasoner(reasoner, recipe=WRITES), max_batch_size=8, **options
    )


def assert_equal(results: list[Result], expected: list[Expected]) -> None:
    for result, wanted in zip(results, expected, strict=True):
        assert result.trace_ids == wanted.trace_ids
        assert result.trace == wanted.text
        assert np.abs(result.vector - wanted.vector).max() < TOLERANCE


@pytest.mark.parametrize("together", [False, True], ids=["alone", "together"])
def test_equal_tokenizers_and_towers(
    embedder_folder: Path, reasoner_folder: Path, items: list[Any], together: bool
) -> None:
    with system(embedder_folder, reasoner_folder) as embedder:
        for role in ("query", "document"):
            if together:
                results = embedder.embed(items, role=role)
            else:
                results = [embedder.embed(item, role=role) for item in items]
            assert_equal(results, two_models(reasoner_folder, embedder_folder, items, role))
            for result in results:
                written, read = result.reasoner_counts, result.counts
                assert written is not None
                assert (result.trace_from, written.trace, read.trace) == ("written", len(result.trace_ids), 0)
                assert read.computed + read.cached == read.prompt
                assert read.vision == 0, "the reasoner's features served"
                assert result.timings.reasoner > 0 and result.reasoner_timings is not None


def test_strangers_pass_text_and_look_for_themselves(
    embedder_folder: Path, stranger_folder: Path, items: list[Any]
) -> None:
    """Another tokenizer, processor and tower: the trace passes as text, and every picture goes through both towers."""
    with system(embedder_folder, stranger_folder) as embedder:
        results = embedder.embed(items, role="query")
        assert_equal(results, two_models(stranger_folder, embedder_folder, items))
        for item, result in zip(items, results, strict=True):
            assert result.reasoner_counts is not None
            assert (result.counts.vision > 0) == (result.reasoner_counts.vision > 0) == isinstance(item, dict)


def test_media_are_read_once_and_equal_towers_are_one(
    embedder_folder: Path, reasoner_folder: Path, stranger_folder: Path, items: list[Any], monkeypatch: Any
) -> None:
    from tte_runtime.inputs.pictures import PictureReader

    reads: list[object] = []
    read = PictureReader.read
    monkeypatch.setattr(PictureReader, "read", lambda self, source: reads.append(source) or read(self, source))
    for reasoner, times in ((reasoner_folder, 1), (stranger_folder, 2)):
        with system(embedder_folder, reasoner) as embedder:
            ours, theirs = embedder._pipeline.model, embedder._pipeline.writer.model  # type: ignore[union-attr]
            assert (ours.vision_cache is theirs.vision_cache) == (times == 1)
            reads.clear()
            embedder.embed(items[1], role="query")
            assert len(reads) == times
            embedder.clear_caches()
            assert embedder.embed(items[1], role="query").counts.vision_cached > 0 or times == 2


def test_without_a_trace_the_terminal_token_follows_the_prompt(embedder_folder: Path, reasoner_folder: Path) -> None:
    reader = PlainEmbedder.from_pretrained(embedder_folder, recipe=READS)
    with system(embedder_folder, reasoner_folder) as embedder:
        for think in (False, Think(max_tokens=0)):
            result = embedder.embed("one two", role="query", think=think)
            assert np.abs(result.vector - encode(reader, "one two", "query", [])).max() < TOLERANCE
            assert (result.finish_reason, result.trace_from, result.reasoner_counts) == ("no_trace", None, None)
            assert result.counts.suffix == 0 and result.counts.computed == result.counts.prompt


def test_limits_hold_for_the_whole_request(embedder_folder: Path, reasoner_folder: Path) -> None:
    with system(embedder_folder, reasoner_folder) as embedder:
        few = embedder.embed("one two", role="query", think=Think(max_tokens=3))
        assert (len(few.trace_ids), few.finish_reason, few.forced_by) == (3, "forced", "max_tokens")
        none = embedder.embed("one two", role="query", think=Think(deadline_ms=0))
        assert (none.trace, none.finish_reason, none.forced_by) == ("", "forced", "deadline")
        wanted = embedder.embed("one two", role="query", think=False)
        assert np.abs(none.vector - wanted.vector).max() < TOLERANCE


def test_a_stream_has_the_reasoners_tokens(embedder_folder: Path, reasoner_folder: Path, items: list[Any]) -> None:
    with system(embedder_folder, reasoner_folder) as embedder:
        for item in items[:2]:
            *tokens, last = embedder.stream(item, role="query")
            assert isinstance(last, Result) and all(isinstance(token, TraceToken) for token in tokens)
            assert tuple(token.id for token in tokens) == last.trace_ids  # type: ignore[union-attr]
            assert np.abs(last.vector - embedder.embed(item, role="query").vector).max() < TOLERANCE


def test_leaving_a_stream_frees_the_reasoner(embedder_folder: Path, reasoner_folder: Path) -> None:
    with system(embedder_folder, reasoner_folder) as embedder:
        stream = embedder.stream("one two", role="query", think=Think(max_tokens=500, temperature=1))
        next(stream)
        stream.close()  # type: ignore[attr-defined]
        embedder.embed("after", role="query", think=False)
        for engine in embedder._pipeline.loop.engines:
            assert engine.idle and engine.pool.num_available == engine.pool.num_pages - 1


def test_one_embeds_while_another_still_thinks(embedder_folder: Path, reasoner_folder: Path) -> None:
    """The short trace's embedding happens between two steps of the long one's, and holds it up for no step."""
    with system(embedder_folder, reasoner_folder) as embedder:
        reads, writes = embedder._pipeline.loop.engines
        steps: list[str] = []
        for name, engine in (("read", reads), ("write", writes)):
            engine.step = recorded(engine.step, steps, name)  # type: ignore[method-assign]
        submit, inbox = embedder._pipeline.submit, embedder._pipeline.loop._inbox
        reached, gate = threading.Event(), threading.Event()

        def hold() -> None:
            reached.set()
            gate.wait(60)

        inbox.put(hold)  # no step before both are there
        thinks = [Think(max_tokens=60, temperature=1, seed=1), Think(max_tokens=2)]
        pending = [
            submit(parse_item(text), "query", think, priority="interactive", normalize=True)
            for text, think in zip(("long", "short"), thinks, strict=True)
        ]
        assert reached.wait(60)
        while inbox.qsize() < 2:
            time.sleep(0.01)
        gate.set()
        long, short = (embedder._result(one.result()) for one in pending)
        assert len(long.trace_ids) > 20 and len(short.trace_ids) == 2
        last = len(steps) - steps[::-1].index("write")  # the end of the long trace
        between = [i for i, name in enumerate(steps[:last]) if name == "read"]
        assert between and steps[between[0] :].count("write") > 10, "the short one's embedding had to wait"
        assert all(steps[i + 1] == "write" for i in between), "the long trace waited for more than a step"


def recorded(step: Any, steps: list[str], name: str) -> Any:
    def one() -> bool:
        steps.append(name)
        return bool(step())

    return one


def test_a_failing_step_of_one_engine_leaves_the_other_alone(
    embedder_folder: Path, reasoner_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with system(embedder_folder, reasoner_folder) as embedder:
        _, writes = embedder._pipeline.loop.engines
        monkeypatch.setattr(writes.runner, "forward", lambda batch: 1 / 0)
        outcomes = embedder.embed(["one", "two"], role="query", errors="return")
        assert all(isinstance(outcome, EngineError) for outcome in outcomes)
        assert embedder.embed("one", role="query", think=False).finish_reason == "no_trace"


def test_what_cannot_fit_is_refused_before_anything_is_written(embedder_folder: Path, reasoner_folder: Path) -> None:
    with system(embedder_folder, reasoner_folder, max_context=64) as embedder:
        with pytest.raises(ContextError, match="trace up to 60"):
            embedder.embed("one", role="query", think=Think(max_tokens=60))
        assert not embedder._pipeline.loop.engines[1]._live


def test_the_fingerprint_is_of_both(embedder_folder: Path, reasoner_folder: Path, stranger_folder: Path) -> None:
    found = []
    for reasoner in (reasoner_folder, stranger_folder):
        with system(embedder_folder, reasoner) as embedder:
            found.append(embedder.fingerprint)
    with Embedder.from_pretrained(embedder_folder, recipe=READS) as embedder:
        found.append(embedder.fingerprint)
    assert len(set(found)) == 3


def test_no_reasoner_is_refused_with_the_ways_out(embedder_folder: Path) -> None:
    with pytest.raises(OptionError, match="LocalReasoner"):
        Embedder.from_pretrained(embedder_folder, reasoner="a name")  # type: ignore[arg-type]
    with Embedder.from_pretrained(embedder_folder, recipe=READS) as embedder:
        with pytest.raises(OptionError, match="give a reasoner"):
            embedder.embed("one", role="query", think=True)
        result = embedder.embed({"text": "one", "trace": "a thought"}, role="query")
        reader = PlainEmbedder.from_pretrained(embedder_folder, recipe=READS)
        ids = reader.renderer.tokenizer.encode("a thought", add_special_tokens=False)
        assert np.abs(result.vector - encode(reader, "one", "query", ids)).max() < TOLERANCE
        assert (result.trace, result.trace_from) == ("a thought", "given")


def test_the_recipes_of_a_system_that_says_nothing(embedder_folder: Path, reasoner_folder: Path) -> None:
    """`tte_s` reads and `reasoner` writes: chat prompt, trace, end of the turn, terminal token."""
    reader = PlainEmbedder.from_pretrained(embedder_folder, recipe="tte_s")
    close = reader.renderer.tokenizer.convert_tokens_to_ids("<|im_end|>")
    writer = PlainEmbedder.from_pretrained(reasoner_folder, recipe="reasoner")
    with Embedder.from_pretrained(embedder_folder, reasoner=LocalReasoner(reasoner_folder)) as embedder:
        assert embedder.recipe.name == "tte_s"
        for item in ("one two", {"text": "one two", "instruction": "find it"}):
            result = embedder.embed(item, role="document", think=Think(max_tokens=6))
            trace = writer.embed(item, role="document", think=Think(max_tokens=6)).trace_ids
            assert result.trace_ids == trace
            wanted = encode(reader, item, "document", [*trace, close])
            assert np.abs(result.vector - wanted).max() < TOLERANCE
    with Embedder.from_pretrained(embedder_folder, recipe="tte_t") as embedder:
        with pytest.raises(TraceError, match="Load it with a reasoner"):
            embedder.embed("one two", role="document")
        result = embedder.embed({"text": "one two", "trace": trace}, role="document")
        assert np.abs(result.vector - encode(reader, "one two", "document", [*trace, close])).max() < TOLERANCE


@pytest.mark.parametrize("recipe", ["vlm2vec", "tte_s"])
def test_a_recipe_that_writes_no_traces_is_refused(embedder_folder: Path, reasoner_folder: Path, recipe: str) -> None:
    with pytest.raises(RecipeError, match="writes no traces"):
        Embedder.from_pretrained(embedder_folder, reasoner=LocalReasoner(reasoner_folder, recipe=recipe))


def test_a_recipe_that_reads_its_own_trace_is_refused(embedder_folder: Path, reasoner_folder: Path) -> None:
    marked = replace(WRITES, readout="generated_marker", marker="<|im_end|>", close=("<|im_end|>",))
    with pytest.raises(RecipeError, match="within a trace of its own"):
        Embedder.from_pretrained(embedder_folder, recipe=marked, reasoner=LocalReasoner(reasoner_folder))


def test_several_traces_are_not_for_two_models(embedder_folder: Path, reasoner_folder: Path) -> None:
    with system(embedder_folder, reasoner_folder) as embedder:
        with pytest.raises(OptionError, match="num_traces cannot be had here"):
            embedder.embed("one", role="query", think=Think(num_traces=2, temperature=1))
        with pytest.raises(OptionError, match="snapshot_every cannot be had here"):
            embedder.stream("one", role="query", snapshot_every=3)
