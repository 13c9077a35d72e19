"""The head's training data and inputs: no document is right twice, tapped states are the backbone's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tte_runtime.heads.reference import ReferenceHead
from tte_runtime.training.bank import make_bank
from tte_runtime.training.blueprint import build_config, build_model, build_tokenizer
from tte_runtime.training.checkpoint import HEAD_LAYERS, TAP_LAYER
from tte_runtime.training.contests import NEGATIVES, Contests, Item
from tte_runtime.training.head import embed, tapped_states
from tte_runtime.training.lessons import word_loss
from tte_runtime.training.tokens import IGNORED, Encoder, TrainingSequence, pad


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Encoder, Contests]:
    tokenizer = build_tokenizer()
    encoder = Encoder(tokenizer)
    model = build_model(build_config(tokenizer), seed=0).eval()
    file = tmp_path_factory.mktemp("bank") / "train.safetensors"
    bank = make_bank(model.model.visual, file, seed=0, split="train", scenes=30, renderings=1)
    contests = Contests(
        bank, encoder, model.model.visual, lambda prompts: [], seed=0, size=8, length=10, words_first=True, damage=1.0
    )
    return model, encoder, contests


def test_contests_are_pure_functions_of_their_index_and_hold_no_false_negative(parts: Any) -> None:
    _, encoder, contests = parts
    contest, again = contests(4), contests(4)
    assert [one.ids for one in contest.queries] == [one.ids for one in again.queries]
    assert len(contest.negatives) == NEGATIVES
    for seed in range(3):
        chosen = contests._choose(np.random.default_rng(seed))
        assert len({question.answer.value for question, _ in chosen.values()}) == 8
    assert all(one.ids[-1] == encoder.suffix for one in (*contest.queries, *contest.positives))


@torch.no_grad()
def test_tapped_states_are_transformers_hidden_states(parts: Any) -> None:
    model, encoder, contests = parts
    items = contests(0).queries
    group = pad([TrainingSequence(one.ids, [IGNORED] * len(one.ids), one.features) for one in items], encoder)
    embeds = model.get_input_embeddings()(group.ids)
    slots = (group.ids == encoder.image_pad).unsqueeze(-1)
    output = model.model.language_model(
        inputs_embeds=embeds.masked_scatter(slots, group.features),
        position_ids=group.positions,
        output_hidden_states=True,
    )
    torch.testing.assert_close(tapped_states(model, group), output.hidden_states[TAP_LAYER], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_vector_does_not_depend_on_what_it_is_padded_with(parts: Any) -> None:
    model, encoder, contests = parts
    head = ReferenceHead(model.config, HEAD_LAYERS).eval()
    head.initialise_from(model.model.language_model)
    items: list[Item] = contests(1).positives
    together = embed(model, head, items, encoder)
    alone = torch.cat([embed(model, head, [one], encoder) for one in items])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(len(items)))


def test_a_head_with_all_backbone_layers_above_the_tap_is_the_backbone(parts: Any) -> None:
    model, encoder, _ = parts
    head = ReferenceHead(model.config, HEAD_LAYERS).eval()
    head.initialise_from(model.model.language_model)
    ids = encoder.prompt("document", "a1 cat", 0)
    group = pad([TrainingSequence(ids, [IGNORED] * len(ids), None)], encoder)
    with torch.no_grad():
        vector = head(tapped_states(model, group), group.positions, group.lengths - 1)
        state = model.model.language_model(
            inputs_embeds=model.get_input_embeddings()(group.ids), position_ids=group.positions
        ).last_hidden_state[:, -1]
    torch.testing.assert_close(vector, torch.nn.functional.normalize(state, dim=-1), rtol=0, atol=1e-5)


def test_a_saved_head_comes_back(parts: Any, tmp_path: Path) -> None:
    model, _, _ = parts
    head = ReferenceHead(model.config, 2)
    head.initialise_from(model.model.language_model)
    head.save(tmp_path, torch.float32)
    again = ReferenceHead.from_checkpoint(tmp_path, model.config)
    assert len(again.layers) == 2
    assert all(torch.equal(a, b) for a, b in zip(head.state_dict().values(), again.state_dict().values(), strict=True))


def test_the_word_loss_is_least_for_the_words_that_an_item_stands_for() -> None:
    table = torch.eye(6)
    item = Item([1], None, (2, 4))
    right, half, wrong = (
        word_loss(torch.nn.functional.normalize(vector, dim=0)[None], table, [item])
        for vector in (table[2] + table[4], table[2], table[3])
    )
    assert right < half < wrong
