"""tte-tiny in RGE's layout: its marker is written by greedy decoding, and its vectors find things.

The adapter in checkpoints/ is what `python -m tte_runtime.training.markers` wrote. RGE is a Qwen2.5-VL and tte-tiny a
Qwen2-VL: only the recipe is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import PeftModel
from PIL import Image
from recipe_authors import CHAT, IMAGE, Plain
from recipe_checkpoints import load
from transformers import AutoTokenizer

from tte_runtime import Embedder, Think
from tte_runtime.evaluation.scenes import Test, judge_retrieval, judge_traces, make_pool, make_tests
from tte_runtime.models.checkpoint import find_folder
from tte_runtime.scenes.questions import COMPOSITIONAL

CLOSE = 1e-5  # fp32 against fp32; elementwise, of unit vectors
CHECKPOINTS = Path(__file__).parent / "checkpoints"
BUDGET = 96  # tte-tiny's own


def merged(name: str) -> Any:
    """tte-tiny with an adapter, in plain transformers."""
    return PeftModel.from_pretrained(load(find_folder("tte-tiny")), CHECKPOINTS / name).merge_and_unload()


@pytest.fixture(scope="module")
def rge() -> Iterator[Embedder]:
    with Embedder.from_pretrained(CHECKPOINTS / "rge") as embedder:
        yield embedder


@pytest.fixture(scope="module")
def questions() -> list[Test]:
    """Held-out questions, two of each kind; among them words without a picture."""
    return make_tests(2)


def shown(item: dict[str, Any]) -> tuple[list[Image.Image], str]:
    """The pictures of an item, and the text beside them."""
    return [item["image"]] if "image" in item else [], item.get("text", "")


def test_the_marker_is_written(rge: Embedder, questions: list[Test]) -> None:
    assert rge.recipe.name == "rge"
    results = rge.embed([test.item for test in questions], role="query")
    marker = AutoTokenizer.from_pretrained(CHECKPOINTS / "rge").convert_tokens_to_ids("<emb>")
    written = [one.finish_reason == "stop" and one.trace_ids[-1] == marker for one in results]
    assert sum(written) >= len(questions) - 1
    figures = judge_traces(questions, [one.trace for one in results])
    assert np.mean([row["answer"] for row in figures.values()]) > 0.7


def test_rge_as_its_authors_read_it(rge: Embedder, questions: list[Test]) -> None:
    plain = Plain(merged("rge").eval(), CHECKPOINTS / "rge")
    for test in questions[::3]:
        pictures, text = shown(test.item)
        prompt = CHAT % f"{IMAGE + ' ' if pictures else ''}{text}\n"
        query, document = (rge.embed(test.item, role=role) for role in ("query", "document"))
        vector, ids = plain.emb(prompt, pictures, BUDGET)
        assert list(query.trace_ids) == ids and query.finish_reason == "stop"
        assert np.abs(query.vector - vector).max() < CLOSE
        assert np.abs(document.vector - plain.at(prompt + "<emb>", pictures, "<emb>")).max() < CLOSE


def test_a_budget_that_is_too_small(rge: Embedder, questions: list[Test]) -> None:
    whole = rge.embed(questions[0].item, role="query")
    cut = rge.embed(questions[0].item, role="query", think=Think(max_tokens=4))
    assert (cut.finish_reason, cut.forced_by, cut.counts.suffix) == ("forced", "max_tokens", 1)
    assert cut.trace_ids == whole.trace_ids[:4]
    assert np.abs(cut.vector - whole.vector).max() > 1e-3


@pytest.mark.slow
def test_the_figures(rge: Embedder, capsys: pytest.CaptureFixture[str]) -> None:
    """Hit@1 among a thousand documents, as docs/recipes.md has it; printed, and held to its sense."""
    tests = make_tests(30)
    pool = make_pool(tests)
    queries = rge.embed([one.item for one in tests], role="query")
    documents = rge.embed([one.item for one in pool], role="document")
    hits = judge_retrieval(tests, pool, queries, documents)
    with capsys.disabled():
        print("\nrge: " + " ".join(f"{kind} {100 * share:.0f}" for kind, share in hits.items()))
    assert np.mean([hits[kind] for kind in COMPOSITIONAL]) > 0.5
