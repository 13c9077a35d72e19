"""Vectors of the recipes without a trace against the authors' code in plain transformers, on random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from recipe_authors import IMAGE, PAD, SYSTEM, Plain
from recipe_checkpoints import build, byte_tokenizer, load, save_processor

from tte_runtime import Embedder, Think
from tte_runtime.evaluation.plain import PlainEmbedder

CLOSE = 1e-5  # fp32 against fp32; elementwise, of unit vectors


def test_vlm2vec(checkpoints: Callable[..., Path], pictures: list[Image.Image]) -> None:
    """Found by its name; pictures at the positions of words."""
    folder = checkpoints("VLM2Vec-V2.0", "qwen2_vl")
    plain = Plain(load(folder), folder)
    cases = [
        ("A cat and a dog", "A cat and a dog", []),
        ({"image": pictures[0], "text": "what?", "instruction": "Look."}, f"{PAD} Look. what?", pictures[:1]),
        ({"images": pictures}, f"{PAD} {PAD}", pictures),
    ]
    with Embedder.from_pretrained(folder) as embedder:
        assert embedder.recipe.name == "vlm2vec"
        vectors = embedder.encode([item for item, _, _ in cases])
        for vector, (_, prompt, images) in zip(vectors, cases, strict=True):
            assert np.abs(vector - plain.last_token(prompt, images, words_positions=True)).max() < CLOSE
        on_a_grid = plain.last_token(cases[1][1], pictures[:1])
        assert np.abs(vectors[1] - on_a_grid).max() > 1e-3  # what transformers 5 does by itself is another vector


def test_vlm2vec_as_it_is_published(tmp_path: Path, pictures: list[Image.Image]) -> None:
    """A LoRA adapter beside a tokenizer and a processor of its own; the base is known by its name."""
    base, folder = build(tmp_path / "Qwen2-VL-2B-Instruct", "qwen2_vl"), tmp_path / "VLM2Vec-V2.0"
    model = get_peft_model(load(base), LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "down_proj"]))
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    byte_tokenizer(()).save_pretrained(folder)
    save_processor(folder, "qwen2_vl")
    plain = Plain(PeftModel.from_pretrained(load(base), folder).merge_and_unload(), folder)
    with Embedder.from_pretrained(folder) as embedder, Embedder.from_pretrained(base, recipe="vlm2vec") as without:
        assert embedder.recipe == without.recipe
        item = {"image": pictures[0], "text": "what?", "instruction": "Look."}
        vector = embedder.encode(item)
        expected = plain.last_token(f"{PAD} Look. what?", pictures[:1], words_positions=True)
        assert np.abs(vector - expected).max() < CLOSE
        assert np.abs(vector - without.encode(item)).max() > 1e-3


def test_gme(checkpoints: Callable[..., Path], pictures: list[Image.Image]) -> None:
    folder = checkpoints("gme-Qwen2-VL-2B-Instruct", "qwen2_vl")
    plain = Plain(load(folder), folder, min_pixels=4 * 28 * 28, max_pixels=1280 * 28 * 28)
    cases = [
        ("a cat", SYSTEM % ("You are a helpful assistant.", "a cat"), []),
        ({"image": pictures[0], "text": "x", "instruction": "Find."}, SYSTEM % ("Find.", IMAGE + "x"), pictures[:1]),
        ({"image": pictures[0].resize((200, 150))}, None, [pictures[0].resize((200, 150))]),
    ]
    with Embedder.from_pretrained(folder) as embedder:
        assert embedder.recipe.name == "gme"
        for vector, (_, prompt, images) in zip(embedder.encode([c[0] for c in cases]), cases, strict=True):
            prompt = prompt or SYSTEM % ("You are a helpful assistant.", IMAGE)
            assert np.abs(vector - plain.last_token(prompt + "<|endoftext|>", images)).max() < CLOSE


def test_qwen3_vl_embedding(checkpoints: Callable[..., Path], pictures: list[Image.Image]) -> None:
    folder = checkpoints("Qwen3-VL-Embedding-2B", "qwen3_vl")
    plain = Plain(load(folder), folder, min_pixels=4096, max_pixels=1843200)
    cases = [
        ("a cat", SYSTEM % ("Represent the user's input.", "a cat"), []),
        ({"images": pictures, "text": "x", "instruction": "Find"}, SYSTEM % ("Find.", IMAGE * 2 + "x"), pictures),
    ]
    with Embedder.from_pretrained(folder) as embedder:
        assert embedder.recipe.name == "qwen3_vl_embedding"
        items = [item for item, _, _ in cases]
        whole, cut = embedder.encode(items), embedder.encode(items, truncate_dim=24)
        for i, (_, prompt, images) in enumerate(cases):
            expected = plain.last_token(prompt, images)
            assert np.abs(whole[i] - expected).max() < CLOSE
            short = expected[:24] / np.linalg.norm(expected[:24])  # Matryoshka: cut, then normalised again
            assert np.abs(cut[i] - short).max() < CLOSE


@pytest.mark.parametrize("passes", ["two", "one"])
@pytest.mark.parametrize(
    ("recipe", "folder", "role"),
    [
        ("vlm2vec", ("VLM2Vec-V2.0", "qwen2_vl"), "query"),
        ("ume_r1_disc", ("ume", "qwen2_vl", "<gen_emb>", "<disc_emb>"), "document"),
        ("ume_r1", ("ume", "qwen2_vl", "<gen_emb>", "<disc_emb>"), "query"),
        ("rge", ("rge", "qwen2_5_vl", "<emb>"), "query"),
    ],
)
def test_our_own_baseline(
    checkpoints: Callable[..., Path],
    pictures: list[Image.Image],
    recipe: str,
    folder: tuple[str, ...],
    role: Any,
    passes: Any,
) -> None:
    """`evaluation/plain.py` is what benchmarks compare with, so it has to know every recipe too."""
    plain = PlainEmbedder.from_pretrained(checkpoints(*folder), recipe=recipe)
    item = {"image": pictures[0], "text": "what is it?"}
    with Embedder.from_pretrained(checkpoints(*folder), recipe=recipe) as embedder:
        think = Think(max_tokens=6) if embedder.recipe.roles[role].think else False
        ours = embedder.embed(item, role=role, think=think)
        theirs = plain.embed(item, role=role, think=think, passes=passes)
        assert ours.trace_ids == theirs.trace_ids
        assert np.abs(ours.vector - theirs.vector).max() < CLOSE
