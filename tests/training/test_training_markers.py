"""Other people's layouts in training: what is fed is what their recipes render, and a run leaves what is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from tte_runtime import Embedder
from tte_runtime.models.checkpoint import find_folder
from tte_runtime.scenes.questions import Answer
from tte_runtime.training import markers
from tte_runtime.training.contests import Draft
from tte_runtime.training.layouts import LAYOUTS, LayoutEncoder, MarkedContests


def contests(name: str) -> tuple[MarkedContests, Any]:
    """Contests of a layout that draw nothing, and their tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(find_folder("tte-tiny"))
    tokenizer.add_tokens(list(LAYOUTS[name].markers), special_tokens=True)
    encoder: Any = LayoutEncoder(tokenizer, LAYOUTS[name])
    bank: Any = None
    tower: Any = None
    blank = torch.zeros(16, 192) if LAYOUTS[name].recipe.media.blank else None
    return MarkedContests(bank, encoder, tower, None, 0, 4, 10, True, 0.0, blank), tokenizer


@pytest.mark.parametrize(
    ("name", "role", "written"),
    [
        ("ume_r1", "query", "<think> cat </think> b3 <gen_emb><|im_end|>"),
        ("ume_r1", "document", "<think> cat </think> b3 <gen_emb><|im_end|>"),
        ("rge", "query", "<think> cat </think> b3 <emb>"),
        ("rge", "document", ""),
    ],
)
def test_an_item_is_the_recipes_prompt_and_what_is_to_be_written(name: str, role: Any, written: str) -> None:
    made, tokenizer = contests(name)
    draft = Draft(role, "cat", None, "<think> cat </think> b3")
    item = made._finish(draft, made._prompt(draft), [], np.random.default_rng(0))
    given, tail = item.ids[: len(item.ids) - item.written], item.ids[len(item.ids) - item.written :]
    assert tail == tokenizer(written).input_ids
    pads = ["<|image_pad|>" * 16] if made.blank is not None else []
    prompt = LAYOUTS[name].recipe.prompt(role, pads, None, "cat")
    assert given == tokenizer(prompt + ("" if written else "<emb>")).input_ids
    assert item.words == tuple(tokenizer("b3").input_ids)
    assert (item.features is None) == (name == "rge")


def test_a_description_is_a_scene_whether_it_seeks_or_is_sought() -> None:
    made, _ = contests("ume_r1")
    text = "a1 cat b3 dog"
    traces = (Answer("text", text).document_trace, Answer("scene", text).document_trace)
    drafts = [Draft(role, text, None, trace) for role, trace in zip(("document", "query"), traces, strict=True)]
    sought, seeks = (made._finish(one, made._prompt(one), [], np.random.default_rng(0)) for one in drafts)
    assert sought.ids == seeks.ids


def test_a_run_in_miniature_leaves_an_adapter_that_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markers, "BANK_SCENES", 40)
    monkeypatch.setattr(markers, "BANK_RENDERINGS", 1)
    folder = markers.train_markers("rge", tmp_path, plan=(2, 4))
    written = (folder / "adapter_model.safetensors").stat().st_mtime_ns
    with Embedder.from_pretrained(folder) as embedder:
        assert embedder.recipe.name == "rge"
        assert embedder.embed("where is the cat?", role="document").finish_reason == "no_trace"
    assert markers.train_markers("rge", tmp_path) == folder
    assert (folder / "adapter_model.safetensors").stat().st_mtime_ns == written
