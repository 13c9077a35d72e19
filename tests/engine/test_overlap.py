"""The host a step behind, and decode steps over fixed memory: the same tokens and vectors as step by step.

Capturing needs a GPU; everything a captured step does besides runs here, called anew instead of replayed.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator
from dataclasses import replace
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from engine_harness import capture_decode, drive, render
from safetensors.torch import load_file, save_file

from tte_runtime import Embedder, EngineConfig, Think
from tte_runtime.engine.graphs import SIZES, DecodeGraphs, cuda_capture
from tte_runtime.engine.request import EngineResult, Listener
from tte_runtime.errors import OptionError
from tte_runtime.inputs.items import parse_item

Item = tuple[Any, str, int]
SMALL = {"max_context": 208, "kv_cache_tokens": 320, "prefix_cache": False}
SAMPLED = {"temperature": 1.0, "seed": 4}


def captured(folder: Path, **options: Any) -> Embedder:
    """An embedder whose decode steps run over fixed memory."""
    embedder = Embedder.from_pretrained(folder, **{"max_context": 640, **options})
    capture_decode(embedder._pipeline.engine)
    return embedder


def embed(embedder: Embedder, requests: list[Item], **think: Any) -> list[EngineResult]:
    """Twenty-four of the requests, all on their way before the first is waited for."""
    pending = [
        embedder._pipeline.submit(
            parse_item(item),
            role,  # type: ignore[arg-type]
            Think(max_tokens=limit, **think) if limit else None,
            priority="interactive",
            normalize=True,
        )
        for item, role, limit in requests[:24]
    ]
    return [one.result().embedded for one in pending]


@pytest.fixture(scope="module")
def step_by_step(random_folder: Path, requests: list[Item]) -> Iterator[list[list[EngineResult]]]:
    with Embedder.from_pretrained(random_folder) as embedder:
        yield [embed(embedder, requests), embed(embedder, requests, **SAMPLED)]


def check(got: list[EngineResult], expected: list[EngineResult]) -> None:
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.trace_ids == theirs.trace_ids
        assert (ours.finish_reason, ours.forced_by) == (theirs.finish_reason, theirs.forced_by)
        assert ours.counts.suffix == theirs.counts.suffix
        assert np.abs(ours.vector - theirs.vector).max() < 1e-5


@pytest.mark.parametrize("options", [{}, SMALL], ids=["roomy", "preempting"])
@pytest.mark.parametrize("make", [Embedder.from_pretrained, captured], ids=["eager", "captured"])
@pytest.mark.parametrize("overlap", [True, False], ids=["one behind", "in step"])
def test_equal_to_step_by_step(
    random_folder: Path,
    requests: list[Item],
    step_by_step: list[list[EngineResult]],
    make: Any,
    overlap: bool,
    options: dict[str, int],
) -> None:
    with make(random_folder, overlap=overlap, **{"max_context": 640, **options}) as embedder:
        check(embed(embedder, requests), step_by_step[0])
        check(embed(embedder, requests, **SAMPLED), step_by_step[1])
        engine = embedder._pipeline.engine
        assert bool(engine.scheduler.num_preempted) == bool(options), "the pool was not small enough to tell"
        assert engine.pool.num_available == engine.pool.num_pages - 1, "a page was lost"
        assert len(engine.scheduler._lanes) == engine.config.max_batch_size, "a lane was lost"


def test_top_p_beside_greedy_in_captured_steps(random_folder: Path) -> None:
    def run(embedder: Embedder) -> list[tuple[int, ...]]:
        pending = [
            embedder._pipeline.submit(item, "query", think, priority="interactive", normalize=True)
            for item, think in zip(items, thinking, strict=True)
        ]
        return [one.result().embedded.trace_ids for one in pending]

    items = [parse_item(f"text {i}") for i in range(6)]
    thinking = [Think(max_tokens=9, **(SAMPLED | {"top_p": 0.8, "top_k": 5} if i % 2 else {})) for i in range(6)]
    with Embedder.from_pretrained(random_folder) as plain, captured(random_folder, overlap=True) as ours:
        assert run(ours) == run(plain)


def test_a_step_too_large_for_a_graph_runs_without(random_folder: Path) -> None:
    with captured(random_folder, overlap=True, max_batch_size=80) as embedder:
        assert embedder._pipeline.engine.graphs is not None
        assert embedder._pipeline.engine.graphs.max_rows == SIZES[-1]
        texts = [f"text {i}" for i in range(80)]
        together = embedder.embed(texts, role="query", think=Think(max_tokens=4))
        alone = embedder.embed(texts[79], role="query", think=Think(max_tokens=4))
    assert together[79].trace_ids == alone.trace_ids
    assert np.abs(together[79].vector - alone.vector).max() < 1e-5


def test_leaving_a_stream_while_a_step_is_under_way(random_folder: Path) -> None:
    with captured(random_folder, overlap=True) as embedder:
        stream = embedder.stream("one two", role="query", think=Think(max_tokens=90))
        next(stream)
        stream.close()  # type: ignore[attr-defined]
        result = embedder.embed("after", role="query", think=Think(max_tokens=5))
        engine = embedder._pipeline.engine
        assert engine.idle and engine.pool.num_available == engine.pool.num_pages - 1
    with Embedder.from_pretrained(random_folder) as plain:
        assert plain.embed("after", role="query", think=Think(max_tokens=5)).trace_ids == result.trace_ids


@pytest.mark.parametrize("limit", [0, 3], ids=["no trace", "trace"])
@pytest.mark.parametrize("make", [Embedder.from_pretrained, captured], ids=["eager", "captured"])
def test_a_vector_does_not_wait_for_the_step_after_its_own(random_folder: Path, make: Any, limit: int) -> None:
    """Somebody else goes on meanwhile, so that the host is always one step behind."""
    with make(random_folder, overlap=True) as embedder:
        engine, found = embedder._pipeline.engine, []  # type: ignore[var-annotated]
        other = replace(render(embedder, "three", max_tokens=90), stop_ids=frozenset())
        engine.add(other, Listener(on_result=lambda result: None, on_error=_fail))
        for _ in range(3):
            engine.step()
        request = replace(render(embedder, "one two", max_tokens=limit), stop_ids=frozenset())
        engine.add(request, Listener(on_result=found.append, on_error=_fail))
        fed = 0  # when the step was launched that feeds its last token
        for calls in itertools.count(1):
            engine.step()
            running = [sequence for sequence in engine.scheduler.running if sequence.request is request]
            if not fed and running and running[0].done:
                fed = calls
            if found:
                break
        assert fed and calls == fed + 1, "it is handed out as the step lands, behind the launch of the next one"
        while not engine.idle:
            engine.step()


def test_graphs_are_refused_without_a_gpu() -> None:
    with pytest.raises(OptionError, match="needs our kernels on a GPU, got kernels='torch' on 'cpu'"):
        EngineConfig(cuda_graphs=True, device="cpu", kernels="torch").resolve(model_context=64, bytes_per_token=4)
    with pytest.raises(OptionError, match="overlap must be"):
        EngineConfig(overlap="yes")  # type: ignore[arg-type]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch says that it sees a GPU; nothing may touch it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.usefixtures("cuda")
def test_auto_on_a_gpu_is_our_kernels_one_behind_and_captured() -> None:
    config = EngineConfig().resolve(model_context=64, bytes_per_token=4)
    assert (config.device, config.kernels, config.attention, config.dtype) == ("cuda", "triton", "triton", "bfloat16")
    assert config.overlap is True and config.cuda_graphs is True
    plain = EngineConfig(kernels="torch").resolve(model_context=64, bytes_per_token=4)
    assert plain.overlap is True and plain.cuda_graphs is False
    with pytest.raises(OptionError, match="needs our kernels on a GPU, got kernels='torch' on 'cuda'"):
        EngineConfig(kernels="torch", cuda_graphs=True).resolve(model_context=64, bytes_per_token=4)


def test_steps_of_a_model_without_output_embedding_are_captured_without_draws(
    random_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "embeds only"
    shutil.copytree(random_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    (folder / "tte.json").unlink()
    with Embedder.from_pretrained(folder, recipe="last_token", kernels="torch", max_context=128) as embedder:
        engine = embedder._pipeline.engine
        request = render(embedder, "one two", max_tokens=0)
        request = replace(request, suffix_ids=request.prompt_ids[:3])  # rows of a decode step that draws nothing
        (eager,) = drive(engine, [request])
        embedder.clear_caches()
        capture_decode(engine)
        (again,) = drive(engine, [request])
    assert isinstance(eager, EngineResult) and isinstance(again, EngineResult)
    assert np.abs(eager.vector - again.vector).max() < 1e-5


def test_steps_up_to_64_rows_are_captured_whatever_the_batch(
    random_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with captured(random_folder, kernels="torch", max_batch_size=4) as embedder:
        assert embedder._pipeline.engine.graphs is not None
        assert embedder._pipeline.engine.graphs.max_rows == 64
    talk = capsys.readouterr()
    assert "capturing decode graphs" in talk.err and f"/{len(SIZES)} " in talk.err and not talk.out


@pytest.mark.parametrize("late", [False, True], ids=["at once", "by breaking the capture"])
def test_running_out_of_memory_while_capturing_says_what_to_lower(random_folder: Path, late: bool) -> None:
    def capture(body: Any) -> Any:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        finally:
            if late:  # as ending a broken capture does
                raise RuntimeError("operation failed due to a previous error during capture")

    with Embedder.from_pretrained(random_folder, kernels="torch", max_context=64) as embedder:
        engine = embedder._pipeline.engine
        with pytest.raises(OptionError, match=r"do not fit the memory of cpu .* Lower kv_cache_tokens"):
            DecodeGraphs(engine.runner, engine.config, capture)
        with pytest.raises(RuntimeError, match="something else"):
            DecodeGraphs(engine.runner, engine.config, lambda body: _raise("something else"))


def _raise(text: str) -> Any:
    raise RuntimeError(text)


def _fail(error: Exception) -> None:
    raise error


def test_a_capture_minds_its_own_thread_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another embedder may serve while this one loads; what its thread does would break a global capture."""
    assert "capture_error_mode" in signature(torch.cuda.graph.__init__).parameters
    asked: dict[str, Any] = {}

    def graph(graph: Any, **options: Any) -> Any:
        asked.update(options)
        return contextlib.nullcontext()

    stream = SimpleNamespace(wait_stream=lambda other: None)
    fakes = {
        "graph_pool_handle": lambda: "pool",
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda side: contextlib.nullcontext(),
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
        "graph": graph,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    cuda_capture()(lambda: None)  # type: ignore[arg-type, return-value]
    assert asked == {"pool": "pool", "capture_error_mode": "thread_local"}
