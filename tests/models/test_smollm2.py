"""A real model's weights, as safetensors and as GGUF, against plain transformers. Skipped where they cannot be had."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.models import Unavailable, smollm2, smollm2_gguf
from tte_runtime import Embedder
from tte_runtime.errors import InputError
from tte_runtime.evaluation.plain import PlainEmbedder
from tte_runtime.recipes.base import Recipe, RolePrompt

pytestmark = pytest.mark.slow

QUESTIONS = [
    "What is the capital of France?",
    "Why is the sky blue? Answer in one sentence.",
    "Name three animals that can fly, and one that cannot.",
    "Write a line of Python that reverses a list.",
]


def chatting() -> Recipe:
    """SmolLM2's own chat template, read at the last token of its answer."""
    prompt = RolePrompt(
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\n{media}{text}<|im_end|>\n<|im_start|>assistant\n",
        think=True,
    )
    return Recipe(
        name="chatting",
        roles={"query": prompt, "document": prompt},
        readout="last",
        stop=("<|im_end|>",),
        close=("<|im_end|>",),
        max_trace_tokens=16,
    )


@pytest.fixture(scope="module", params=[smollm2, smollm2_gguf], ids=["safetensors", "gguf"])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    try:
        return request.param()
    except Unavailable as error:
        pytest.skip(f"SmolLM2 is not here: {error}")


def test_against_plain_transformers(checkpoint: Path) -> None:
    plain = PlainEmbedder.from_pretrained(checkpoint, recipe=chatting())
    expected = [plain.embed(question, role="query") for question in QUESTIONS]
    assert "Paris" in expected[0].trace, "the weights are not SmolLM2's"
    del plain
    with Embedder.from_pretrained(checkpoint, recipe=chatting(), max_context=512, max_prefill_tokens=32) as embedder:
        for _ in range(2):
            for ours, theirs in zip(embedder.embed(QUESTIONS, role="query"), expected, strict=True):
                assert ours.trace_ids == theirs.trace_ids
                assert np.abs(ours.vector - theirs.vector).max() < 1e-5
        with pytest.raises(InputError, match="reads text only"):
            embedder.embed({"image": np.zeros((30, 30, 3), np.uint8)}, role="query")
