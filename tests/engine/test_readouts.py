"""The readouts that the bundled model does not use: the mean of all states, and the state at a marker in the prompt."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tte_runtime import Embedder, Recipe, RolePrompt, Think
from tte_runtime.engine.request import EngineResult, Listener, Readout
from tte_runtime.evaluation.plain import PlainEmbedder
from tte_runtime.inputs.items import parse_item

PROMPT = RolePrompt(prompt="{media}{text}<|im_end|>", think=True)
MEAN = Recipe(
    name="mean",
    roles={"query": PROMPT, "document": PROMPT},
    readout="mean",
    stop=("<|im_end|>",),
    close=("<|im_end|>",),
    max_trace_tokens=6,
)


@pytest.mark.parametrize("chunk", [5, 512])
def test_the_mean_of_prompt_and_trace(random_folder: Path, requests: list[Any], chunk: int) -> None:
    plain = PlainEmbedder.from_pretrained(random_folder, recipe=MEAN)
    with Embedder.from_pretrained(random_folder, recipe=MEAN, max_prefill_tokens=chunk) as embedder:
        items = [item for item, _, _ in requests[:8]]
        for _ in range(2):  # the second round finds pages in the cache, but the mean needs every state
            for item, result in zip(items, embedder.embed(items, role="query"), strict=True):
                expected = plain.embed(item, role="query")
                assert result.trace_ids == expected.trace_ids
                assert np.abs(result.vector - expected.vector).max() < 1e-5
                assert result.counts.cached == 0


@pytest.mark.parametrize("position", [0, 17, 40])
def test_the_state_at_a_marker(random_folder: Path, position: int) -> None:
    """Chunks before and after the marker, a trace behind it, and a prefix hit that must stop before it."""
    plain = PlainEmbedder.from_pretrained(random_folder, recipe=MEAN)
    with Embedder.from_pretrained(random_folder, recipe=MEAN, max_prefill_tokens=9) as embedder:
        item = parse_item("a b c d e f g h i j k l m n o p q r s t u v w x y z 1 2 3 4 5 6 7 8 9 0 a b c d e f")
        request = embedder._pipeline.renderer.render(
            item, "query", Think(max_tokens=3), priority="interactive", normalize=True, arrival=time.perf_counter()
        )
        assert len(request.prompt_ids) > 41
        request = replace(request, readout=Readout("marker", position=position))
        with torch.inference_mode():
            states = plain.model.model(input_ids=torch.tensor([request.prompt_ids])).last_hidden_state
        expected = torch.nn.functional.normalize(states[0, position], dim=-1).numpy()
        for cached in (0, position // 16 * 16):
            result = run(embedder, request)
            assert np.abs(result.vector - expected).max() < 1e-5
            assert result.counts.cached == cached


def run(embedder: Embedder, request: Any) -> EngineResult:
    """One request straight to the engine's loop."""
    results: list[Any] = []
    done = threading.Event()

    def settle(outcome: Any) -> None:
        results.append(outcome)
        done.set()

    embedder._pipeline.loop.submit(request, Listener(on_result=settle, on_error=settle))
    assert done.wait(60)
    assert isinstance(results[0], EngineResult), results[0]
    return results[0]
