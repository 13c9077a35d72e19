"""tte-tiny in UME-R1's and RGE's layouts: its markers are written by greedy decoding, and its vectors find things.

The adapters in checkpoints/ are what `python -m tte_runtime.training.markers` wrote. UME-R1 is published as a whole
model and Qwen2-VL as here, so it is also put together; RGE's is Qwen2.5-VL, and only its recipe is the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import PeftModel
from PIL import Image
from recipe_authors import CHAT, IMAGE, UME, Plain
from recipe_checkpoints import load
from transformers import AutoTokenizer

from tte_runtime import Embedder, Think
from tte_runtime.evaluation.scenes import Document, Test, judge_retrieval, judge_traces, make_pool, make_tests
from tte_runtime.models.checkpoint import find_folder
from tte_runtime.scenes.questions import COMPOSITIONAL

CLOSE = 1e-5  # fp32 against fp32; elementwise, of unit vectors
CHECKPOINTS = Path(__file__).parent / "checkpoints"
BUDGET = 96  # tte-tiny's own; UME-R1's is four times its context
THINK = Think(max_tokens=BUDGET)
BLANK = Image.new("RGB", (56, 56), (255, 255, 255))


def merged(name: str) -> Any:
    """tte-tiny with an adapter, in plain transformers."""
    return PeftModel.from_pretrained(load(find_folder("tte-tiny")), CHECKPOINTS / name).merge_and_unload()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """UME-R1's layout as its authors publish it: one model, its tokenizer, its processor."""
    folder = tmp_path_factory.mktemp("published") / "model"
    merged("ume_r1").save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copy(CHECKPOINTS / "ume_r1" / file, folder)
    return folder


@pytest.fixture(scope="module")
def ume(published: Path) -> Iterator[Embedder]:
    with Embedder.from_pretrained(published) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def disc() -> Iterator[Embedder]:
    with Embedder.from_pretrained(CHECKPOINTS / "ume_r1", recipe="ume_r1_disc") as embedder:
        yield embedder


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


def test_layouts_are_recognised(ume: Embedder, disc: Embedder, rge: Embedder) -> None:
    assert [one.recipe.name for one in (ume, disc, rge)] == ["ume_r1", "ume_r1_disc", "rge"]
    with Embedder.from_pretrained(CHECKPOINTS / "ume_r1") as adapter:
        assert adapter.recipe == ume.recipe
        vectors = [one.encode_query("where is the cat?", think=THINK) for one in (adapter, ume)]
        assert np.abs(vectors[0] - vectors[1]).max() < CLOSE


def test_markers_are_written(ume: Embedder, rge: Embedder, questions: list[Test]) -> None:
    items = [test.item for test in questions]
    for embedder, marker in ((ume, "<gen_emb>"), (rge, "<emb>")):
        results = embedder.embed(items, role="query", think=THINK)
        number = AutoTokenizer.from_pretrained(CHECKPOINTS / embedder.recipe.name).convert_tokens_to_ids(marker)
        written = [one.finish_reason == "stop" and number in one.trace_ids for one in results]
        assert sum(written) >= len(items) - 1
        figures = judge_traces(questions, [one.trace.replace(marker, "") for one in results])
        assert np.mean([row["answer"] for row in figures.values()]) > 0.7


def test_ume_r1_as_its_authors_read_it(published: Path, ume: Embedder, questions: list[Test]) -> None:
    plain = Plain(load(published), published)
    chosen = [test.item for test in questions[::3]]
    for item, result in zip(chosen, ume.embed(chosen, role="query", think=THINK), strict=True):
        pictures, text = shown(item)
        prompt = CHAT % f"{IMAGE}{text}\n<disc_emb>\n{UME}"
        vector, ids, how = plain.gen_emb(prompt, pictures or [BLANK], BUDGET)
        assert how == "at one marker" and list(result.trace_ids) == ids
        assert np.abs(result.vector - vector).max() < CLOSE


def test_ume_r1_disc_as_its_authors_read_it(published: Path, disc: Embedder, questions: list[Test]) -> None:
    plain = Plain(load(published), published)
    for test in questions[::3]:
        pictures, text = shown(test.item)
        prompt = CHAT % f"{IMAGE}{text}\n<disc_emb>\n"
        expected = plain.at(prompt, pictures or [BLANK], "<disc_emb>")
        assert np.abs(disc.encode(test.item) - expected).max() < CLOSE


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


def test_a_budget_that_is_too_small(ume: Embedder, rge: Embedder, questions: list[Test]) -> None:
    for embedder in (ume, rge):
        whole = embedder.embed(questions[0].item, role="query", think=THINK)
        cut = embedder.embed(questions[0].item, role="query", think=Think(max_tokens=4))
        assert (cut.finish_reason, cut.forced_by, cut.counts.suffix) == ("forced", "max_tokens", 1)
        assert cut.trace_ids == whole.trace_ids[:4]
        assert np.abs(cut.vector - whole.vector).max() > 1e-3


def hits(embedder: Embedder, tests: Sequence[Test], pool: Sequence[Document]) -> dict[str, float]:
    """Hit@1 by kind, both roles as the recipe has them."""
    sides = (("query", [one.item for one in tests]), ("document", [one.item for one in pool]))
    think = THINK if embedder.recipe.name == "ume_r1" else None  # its own budget is four times tte-tiny's context
    queries, documents = (embedder.embed(items, role=role, think=think) for role, items in sides)  # type: ignore[arg-type]
    return judge_retrieval(tests, pool, queries, documents)


def test_thinking_finds_more(ume: Embedder, disc: Embedder) -> None:
    """Among the right answers of all: chance is one in as many."""
    tests = make_tests(5, kinds=("one_step", "nested"))
    pool = make_pool(tests, size=0)[: len(tests)]
    thinking, at_once = (np.mean([*hits(one, tests, pool).values()]) for one in (ume, disc))
    assert thinking > at_once + 0.2


@pytest.mark.slow
def test_the_figures(ume: Embedder, disc: Embedder, rge: Embedder, capsys: pytest.CaptureFixture[str]) -> None:
    """Hit@1 among a thousand documents, as docs/recipes.md has it; printed, and held to its sense."""
    tests = make_tests(30)
    pool = make_pool(tests)
    figures = {one.recipe.name: hits(one, tests, pool) for one in (ume, disc, rge)}
    with capsys.disabled():
        for name, row in figures.items():
            print(f"\n{name}: " + " ".join(f"{kind} {100 * share:.0f}" for kind, share in row.items()))
    hard = {name: np.mean([row[kind] for kind in COMPOSITIONAL]) for name, row in figures.items()}
    assert hard["ume_r1"] > hard["ume_r1_disc"] + 0.2
    assert hard["rge"] > hard["ume_r1_disc"]
