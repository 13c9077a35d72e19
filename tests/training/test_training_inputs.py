"""Training's fast paths compute what the checkpoint's own processor, tower and positions compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tte_runtime.scenes import pictures
from tte_runtime.scenes.draw import draw_picture, draw_scene
from tte_runtime.scenes.questions import KINDS, make_question
from tte_runtime.scenes.world import CELLS, sample_scene
from tte_runtime.training.blueprint import build_config, build_image_processor, build_model, build_tokenizer
from tte_runtime.training.generate import greedy_traces
from tte_runtime.training.reasoner import Batch, forward, stack
from tte_runtime.training.tokens import IGNORED, Encoder, TrainingSequence, pack, pad
from tte_runtime.training.vision import MIN_PIXELS, patches_of, shrink, tower_features


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


@pytest.fixture(scope="module")
def encoder(tokenizer: Any) -> Encoder:
    return Encoder(tokenizer)


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    return build_model(build_config(tokenizer), seed=0).eval()


@pytest.mark.parametrize("side", [56, 70, 84, 100, 150, 224])
@torch.no_grad()
def test_patches_and_features_equal_the_processor_and_the_tower(model: Any, side: int) -> None:
    rng = np.random.default_rng(side)
    image = draw_scene(sample_scene(rng), rng) if side == 224 else draw_picture("cat", side, rng)
    stock = build_image_processor(MIN_PIXELS)(images=[image], return_tensors="pt")
    patches = patches_of(shrink(image)[None])
    torch.testing.assert_close(patches[0], stock["pixel_values"], rtol=0, atol=1e-6)
    tower = model.model.visual
    theirs = tower(stock["pixel_values"], grid_thw=stock["image_grid_thw"]).pooler_output
    torch.testing.assert_close(tower_features(tower, patches)[0], theirs, rtol=0, atol=1e-5)


def test_every_word_of_the_world_is_one_token(encoder: Encoder) -> None:
    for word in (*pictures.names(), *CELLS, *set(pictures.categories().values()), "empty"):
        assert len(encoder.encode(word)) == 1, word
        assert encoder.encode(word) == encoder.encode(f" {word} ")
    rng = np.random.default_rng(0)
    for kind in KINDS:
        question = None
        while question is None:
            question = make_question(kind, sample_scene(rng), rng, "train")
        for text in (question.text, question.trace):
            words = {encoder.tokenizer.decode([token]).strip() for token in encoder.encode(text)}
            assert all(len(word) > 1 or word in ";?,:a" for word in words), text


@pytest.mark.parametrize("text", ["", "Ünïcödé 日本語 🍕", "\x00\ufffd", "b33 b3x xb3", "<think>", "a" * 300])
def test_any_text_encodes(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text).input_ids
    assert all(0 <= token < len(tokenizer) for token in ids)
    assert tokenizer.decode(ids).replace(" ", "") == text.lower().replace(" ", "")


def test_positions_equal_transformers_rope_index(model: Any, encoder: Encoder) -> None:
    for tokens, side in ((0, 0), (4, 2), (9, 3), (16, 4)):
        features = torch.zeros(tokens, 192) if tokens else None
        one = encoder.sequence("query", "where is the cat?", features, "<think> cat </think> b3")
        group = pad([one], encoder)
        if not tokens:
            assert torch.equal(group.positions[:, 0], torch.arange(len(one.ids)).expand(3, -1))
            continue
        kinds = (group.ids == encoder.image_pad).int()
        grid = torch.tensor([[1, 2 * side, 2 * side]])
        theirs, _ = model.model.get_rope_index(group.ids, kinds, image_grid_thw=grid)
        assert torch.equal(group.positions, theirs)


@torch.no_grad()
def test_a_packed_row_computes_what_each_sequence_computes_alone(model: Any, encoder: Encoder) -> None:
    generator = torch.Generator().manual_seed(0)
    board, picture = torch.randn(16, 192, generator=generator), torch.randn(4, 192, generator=generator)
    sequences = [
        encoder.sequence("query", "where is the cat?", board, "<think> cat </think> b3"),
        encoder.sequence("document", "", picture, "<think> picture </think> dog"),
        encoder.sequence("document", "food", None, "<think> text </think> food"),
        encoder.sequence("document", "", board, "<think> scene </think> a1 cat b3 dog"),
    ]
    beginning = encoder.beginning(16)
    scene = TrainingSequence(beginning, [IGNORED] * len(beginning), board)
    together, _ = forward(model, stack([pack(scene, sequences, encoder, 192)])["batch"])
    alone = []
    for one in sequences:
        group = pad([one], encoder)
        alone.append(forward(model, Batch(group.ids, group.labels, group.positions, None, group.features))[0])
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=2e-5)


@torch.no_grad()
def test_greedy_traces_are_the_argmax_after_each_prefix(model: Any, encoder: Encoder) -> None:
    picture = torch.randn(4, 192, generator=torch.Generator().manual_seed(1))
    texts = [("where is the cat?", None), ("where is the dog?", None), ("what is at b3?", picture)]
    prompts = [(encoder.prompt("query", text, 0 if features is None else 4), features) for text, features in texts]
    for (ids, features), trace in zip(prompts, greedy_traces(model, prompts, encoder, 6), strict=True):
        assert len(trace) == 6 or trace[-1] == encoder.stop
        # Supervising every generated position gives its logits in one forward without a cache.
        whole = TrainingSequence([*ids, *trace], [IGNORED] * len(ids) + trace, features)
        group = pad([whole], encoder)
        logits, labels = forward(model, Batch(group.ids, group.labels, group.positions, None, group.features))
        assert torch.equal(logits.argmax(-1), labels)
