"""Every family against plain transformers in fp32: the same greedy traces, the same vectors within 1e-5 elementwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import TEXT_ONLY, WITH_TOWER, make_config, save, thinking

from tte_runtime import Embedder
from tte_runtime.evaluation.plain import PlainEmbedder

SHAPES = [  # and tokens of a prefill chunk
    ({"heads": 4, "kv_heads": 1, "head_dim": 32}, 5),
    ({"heads": 4, "kv_heads": 2, "head_dim": 64}, 64),
    ({"heads": 2, "kv_heads": 2, "head_dim": 128}, 17),
]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 255, shape, dtype=np.uint8)


def items(family: str) -> list[Any]:
    """Requests that the family can read: several share a prefix, pictures have odd sizes."""
    words = ["only words", "only words and some more of them, so that there is a page to share: 1 2 3 4 5 6 7"]
    if family in TEXT_ONLY:
        return [*words, words[1] + " 8 9", "other words"]
    first, second = noise(70, 131, 3), noise(33, 41, 3)
    return [
        words[1],
        {"image": first, "text": "what is it?"},
        {"images": [first, second, second, noise(9, 150, 3)], "text": "and these?"},
        {"video": noise(5, 60, 45, 3), "text": "how does it end?"},
    ]


@pytest.mark.parametrize(("shape", "chunk"), SHAPES, ids=["kv1-dim32", "kv2-dim64", "all-dim128"])
@pytest.mark.parametrize("family", WITH_TOWER + TEXT_ONLY)
def test_against_plain_transformers(tmp_path: Path, family: str, shape: dict[str, int], chunk: int) -> None:
    folder = save(tmp_path / family, make_config(family, **shape))
    plain = PlainEmbedder.from_pretrained(folder, recipe=thinking())
    expected = [plain.embed(item, role="query") for item in items(family)]
    tokens = [token for one in expected for token in one.trace_ids]
    assert len(set(tokens)) > len(tokens) / 3, "traces that repeat one token prove little"
    with Embedder.from_pretrained(folder, recipe=thinking(), max_prefill_tokens=chunk) as embedder:
        cold, warm = (embedder.embed(items(family), role="query") for _ in range(2))
    for results in (cold, warm):
        for ours, theirs in zip(results, expected, strict=True):
            assert ours.trace_ids == theirs.trace_ids
            assert np.abs(ours.vector - theirs.vector).max() < 1e-5
    assert all(result.counts.cached >= 16 for result in warm if result.counts.prompt > 17)
    assert not any(result.counts.vision for result in warm)


@pytest.mark.parametrize("family", ["qwen3_vl", "llama"])
def test_plain_embedder_in_one_pass(tmp_path: Path, family: str) -> None:
    plain = PlainEmbedder.from_pretrained(save(tmp_path / family, make_config(family)), recipe=thinking())
    for item in items(family)[1:]:
        one, two = (plain.embed(item, role="query", passes=passes) for passes in ("one", "two"))
        assert one.trace_ids == two.trace_ids and np.abs(one.vector - two.vector).max() < 1e-5
