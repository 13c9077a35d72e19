"""The whole engine on the Triton kernels, under the interpreter: equal to torch, and equal bits whoever sits beside."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_harness import capture_decode, drive, render, spoil
from PIL import Image
from transformers import AutoTokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from tte_runtime import Embedder, Result, Think
from tte_runtime.engine.request import EngineResult, Sampling
from tte_runtime.errors import EngineError
from tte_runtime.heads.reference import ReferenceHead
from tte_runtime.models.checkpoint import find_folder

TINY = find_folder("tte-tiny")
TRACE = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer of head dim 32 and a head of one layer: the interpreter is slow."""
    folder = tmp_path_factory.mktemp("one-layer")
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copy(TINY / name, folder / name)
    entry = (TINY / "tte.json").read_text()
    entry = entry.replace('"num_layers": 3', '"num_layers": 1').replace('"tap_layer": 3', '"tap_layer": 1')
    (folder / "tte.json").write_text(entry)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in {
            "image": "image_pad",
            "video": "video_pad",
            "vision_start": "vision_start",
            "vision_end": "vision_end",
        }.items()
    }
    torch.manual_seed(11)
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": -(-len(tokenizer) // 64) * 64,
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 512,
            "initializer_range": 0.25,
            "rope_parameters": {"rope_theta": 1000.0, "rope_type": "default", "mrope_section": [8, 4, 4]},
        },
        vision_config={"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2},
        tie_word_embeddings=False,
        **ids,
    )
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    ReferenceHead(config, num_layers=1).save(folder)
    return folder


@pytest.fixture(scope="module")
def items() -> list[Any]:
    rng = np.random.default_rng(5)
    one, other = (Image.fromarray(rng.integers(0, 255, (size, 56, 3), dtype=np.uint8)) for size in (56, 84))
    return ["one two three", {"image": one, "text": "what is this, and where does it stand?"}, {"image": other}]


def run(folder: Path, items: list[Any], *, together: bool = True, **options: Any) -> tuple[list[Result], list[Result]]:
    """Results of a cold and of a warm round."""
    think = Think(max_tokens=TRACE)
    with Embedder.from_pretrained(folder, kv_cache_tokens=1024, **options) as embedder:
        if together:
            rounds = [embedder.embed(items, role="query", think=think) for _ in range(2)]
        else:
            rounds = [[embedder.embed(item, role="query", think=think) for item in items] for _ in range(2)]
    return rounds[0], rounds[1]


@pytest.fixture(scope="module")
def alone(folder: Path, items: list[Any]) -> list[Result]:
    return run(folder, items, together=False, kernels="triton")[0]


def test_equal_to_torch(folder: Path, items: list[Any], alone: list[Result]) -> None:
    for ours, theirs in zip(alone, run(folder, items, kernels="torch")[0], strict=True):
        assert ours.trace_ids == theirs.trace_ids
        assert np.abs(ours.vector - theirs.vector).max() < 1e-5


def test_prompts_by_sdpa_are_equal_to_torch_and_say_so(folder: Path, items: list[Any], alone: list[Result]) -> None:
    options = {"kernels": "triton", "attention": "sdpa", "max_prefill_tokens": 20}  # the second chunk has a prefix
    with Embedder.from_pretrained(folder, kv_cache_tokens=1024, **options) as embedder:
        other = embedder.embed(items[1], role="query", think=Think(max_tokens=TRACE))
        assert "attention=sdpa" in embedder.config.describe()
    assert other.trace_ids == alone[1].trace_ids
    assert np.abs(other.vector - alone[1].vector).max() < 1e-5
    assert other.fingerprint != alone[1].fingerprint


def test_sampled_traces_are_equal_to_torch(folder: Path, items: list[Any]) -> None:
    think = Think(max_tokens=TRACE, temperature=1.5, seed=3)
    traces = []
    for kernels in ("triton", "torch"):
        with Embedder.from_pretrained(folder, kv_cache_tokens=1024, kernels=kernels) as embedder:
            traces.append(embedder.embed(items[0], role="query", think=think).trace_ids)
    assert traces[0] == traces[1]


@pytest.mark.parametrize(
    "options",
    [{}, {"max_prefill_tokens": 7}, {"max_prefill_tokens": 1, "prefix_cache": False}],
    ids=["together", "chunks of 7", "chunks of 1"],
)
def test_equal_bits_together_chunked_and_cached(
    folder: Path, items: list[Any], alone: list[Result], options: dict[str, Any]
) -> None:
    cold, warm = run(folder, items, kernels="triton", **options)
    assert options.get("prefix_cache", True) == any(result.counts.cached for result in warm)
    for results in (cold, warm):
        for result, single in zip(results, alone, strict=True):
            assert result.trace_ids == single.trace_ids
            assert np.array_equal(result.vector, single.vector), "a neighbour, a chunk or a cache hit changed bits"


def test_equal_bits_under_preemption(folder: Path) -> None:
    """Two prompts fill a page each and their traces need two more, but the pool has three: one must wait and replay."""
    think = Think(max_tokens=TRACE)
    texts = ["cat dog cat dog car dog cat cat dog", "car car dog dog cat cat car dog dog"]
    small = {"max_context": 48, "kv_cache_tokens": 48, "prefix_cache": False, "kernels": "triton"}
    with Embedder.from_pretrained(folder, **small) as embedder:
        together = embedder.embed(texts, role="query", think=think)
        assert 13 <= together[0].counts.prompt <= 16, "the prompts must end just before a page does"
        assert sum(result.counts.replayed for result in together) > 0, "nothing was preempted"
        for text, result in zip(texts, together, strict=True):
            single = embedder.embed(text, role="query", think=think)
            assert np.array_equal(result.vector, single.vector)


@pytest.mark.parametrize("overlap", [False, True], ids=["in step", "one behind"])
def test_equal_bits_from_captured_steps(folder: Path, items: list[Any], alone: list[Result], overlap: bool) -> None:
    """The body of a captured step, called anew instead of replayed, on padded rows of fixed memory."""

    options: dict[str, Any] = {"kv_cache_tokens": 1024, "max_context": 256, "max_batch_size": 4, "overlap": overlap}
    with Embedder.from_pretrained(folder, kernels="triton", **options) as embedder:
        capture_decode(embedder._pipeline.engine, (1, 2, 4))
        results = embedder.embed(items, role="query", think=Think(max_tokens=TRACE))
    for result, single in zip(results, alone, strict=True):
        assert result.trace_ids == single.trace_ids
        assert np.array_equal(result.vector, single.vector), "a captured step has other bits"


@pytest.mark.parametrize("captured", [False, True], ids=["eager", "captured"])
def test_unwritten_slots_are_never_read(folder: Path, items: list[Any], captured: bool) -> None:
    """NaN and infinity in every slot that nobody has written: chunks, forks, a snapshot, hits, a second round."""
    options: dict[str, Any] = {"kv_cache_tokens": 1024, "max_context": 256, "max_batch_size": 4, "overlap": captured}
    with Embedder.from_pretrained(folder, kernels="triton", max_prefill_tokens=20, **options) as embedder:
        engine = embedder._pipeline.engine
        if captured:
            capture_decode(engine, (1, 2, 4))
        first, *others = [render(embedder, item, max_tokens=TRACE) for item in items]
        forked = replace(first, num_traces=2, sampling=Sampling(temperature=1.2, seed=5))
        batch = [replace(first, snapshot_every=1), *others, forked]
        rounds = [drive(engine, batch) for _ in range(2)]
        embedder.clear_caches()
        for clean in rounds:
            for ours, theirs in zip(drive(engine, batch, lambda: spoil(engine)), clean, strict=True):
                assert isinstance(ours, EngineResult) and isinstance(theirs, EngineResult)
                assert ours.traces == theirs.traces and np.array_equal(ours.vector, theirs.vector)


def test_a_request_that_brings_nan_leaves_its_neighbours_bits(folder: Path, items: list[Any]) -> None:
    with Embedder.from_pretrained(folder, kernels="triton", kv_cache_tokens=1024) as embedder:
        engine = embedder._pipeline.engine
        good, bad = (render(embedder, text, max_tokens=TRACE) for text in ("one two three", "cat dog cat dog"))
        (alone,) = drive(engine, [good])
        embedder.clear_caches()
        token = min(set(bad.prompt_ids) - set(good.prompt_ids))
        with torch.inference_mode():
            engine.decoder.embed[token] = float("nan")
        failure, beside = drive(engine, [bad, good])
        assert isinstance(failure, EngineError) and isinstance(beside, EngineResult)
        assert isinstance(alone, EngineResult) and np.array_equal(beside.vector, alone.vector)
