"""TTE_s against plain transformers in fp32: the same greedy trace, the same vector; what is shared is computed once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from systems_harness import READS, WRITES, Expected, two_models

from tte_runtime import Embedder, Result
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
