"""Videos: sampled, sized and placed as transformers does it, and embedded as plain transformers embeds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tte_runtime import Embedder
from tte_runtime.evaluation.plain import PlainEmbedder


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 255, shape, dtype=np.uint8)


@pytest.mark.parametrize("passes", ["two", "one"])
def test_videos_against_plain_transformers(passes: Any) -> None:
    items = [
        {"video": noise(7, 60, 90, 3), "text": "what is it?"},
        {"video": noise(1, 33, 40, 3), "images": [noise(50, 40, 3), noise(28, 28, 3)]},
    ]
    plain = PlainEmbedder.from_pretrained("tte-tiny")
    with Embedder.from_pretrained("tte-tiny", max_prefill_tokens=7) as embedder:
        for item in items:
            ours = embedder.embed(item, role="query")
            theirs = plain.embed(item, role="query", passes=passes)
            assert ours.trace_ids == theirs.trace_ids
            assert np.abs(ours.vector - theirs.vector).max() < 1e-5
