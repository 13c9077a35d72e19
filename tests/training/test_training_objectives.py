"""The losses of the stages: gradient caching changes nothing, tokens of a step count alike, frozen is frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from own_data import make_base, make_data
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tte_runtime.errors import CheckpointError
from tte_runtime.training.base import Base
from tte_runtime.training.examples import read_examples
from tte_runtime.training.feeding import pad
from tte_runtime.training.objectives import TEMPERATURE, Contrast, ReasonerTraining
from tte_runtime.training.recipes import reading, writing
from tte_runtime.training.stages.run import columns_of
from tte_runtime.training.states import IGNORED, decode, see, tapped
from tte_runtime.training.vectors import Vectors


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def test_gradient_caching_is_plain_info_nce(tmp_path: Path) -> None:
    base = Base.load(str(make_base(tmp_path / "base", "qwen3_vl")), device="cpu", precision="float32")
    base.unfrozen(lora=None)
    columns = columns_of(read_examples(make_data(tmp_path / "data", pictures=True), positives=True), 2)
    vectors = Vectors(base.model, base.feeder(reading(base.checkpoint.folder, None)), mixed=False)
    decoder = base.model.get_decoder()
    losses = []
    for mini_batch in (1, 4):
        decoder.zero_grad()
        loss = Contrast(decoder, vectors.embed, mini_batch)(columns)["loss"]
        loss.backward()
        losses.append((loss.item(), gradients(decoder)))
    decoder.zero_grad()
    queries, *documents = [vectors.embed(column) for column in columns]
    plain = F.cross_entropy(queries @ torch.cat(documents).T / TEMPERATURE, torch.arange(len(queries)))
    plain.backward()
    for cached, found in losses:
        assert abs(cached - plain.item()) < 1e-4 and found.keys() == gradients(decoder).keys()
        for name, gradient in gradients(decoder).items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


def test_every_token_of_a_step_counts_alike(tmp_path: Path) -> None:
    base = Base.load(str(make_base(tmp_path / "base", "qwen2_vl")), device="cpu", precision="float32")
    base.unfrozen(lora=None)
    chosen = writing(base.checkpoint.folder, None)
    feeder = base.feeder(chosen)
    rows = [
        feeder.written(one.query) for one in read_examples(make_data(tmp_path / "data", pictures=True), positives=True)
    ]
    training = ReasonerTraining(base.model, mixed=False)

    def batch(chosen: list[Any]) -> Any:
        made = pad(chosen)
        return type(made)(
            made.ids, made.labels, made.positions, made.mask, see(base.model, [s for r in chosen for s in r.media])
        )

    whole = training(batch(rows))["loss"]
    count = sum(label != IGNORED for row in rows for label in row.labels)
    parts = [
        training(batch(part), num_items_in_batch=count, labels=torch.empty(0))["loss"] for part in (rows[:1], rows[1:])
    ]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-5, atol=1e-6)
    stop = feeder.renderer.tokenizer.convert_tokens_to_ids(chosen.stop[0])
    for row in rows:
        asked = [label for label in row.labels if label != IGNORED]
        assert asked[-1] == stop and row.ids[-len(asked) :] == tuple(asked)
        assert feeder.renderer.tokenizer.decode(asked[:-1]).startswith("<think> it is")


@torch.no_grad()
def test_tapped_states_are_those_between_two_layers(tmp_path: Path) -> None:
    base = Base.load(str(make_base(tmp_path / "base", "qwen3_vl")), device="cpu", precision="float32")
    feeder = base.feeder(reading(base.checkpoint.folder, None))
    rows = [
        feeder.embedded(one.query) for one in read_examples(make_data(tmp_path / "data", pictures=True), positives=True)
    ]
    made = pad(rows)
    batch = type(made)(
        made.ids, made.labels, made.positions, made.mask, see(base.model, [s for r in rows for s in r.media])
    )
    seen: list[Tensor] = []
    decoder = base.model.get_decoder()
    handle = decoder.layers[2].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    decode(base.model, batch)
    handle.remove()
    with tapped(decoder, 2):
        states = decode(base.model, batch)
    torch.testing.assert_close(states, seen[0], rtol=0, atol=0)
    assert len(decoder.layers) == 3


def test_a_base_without_an_output_embedding_is_refused(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base", "llama")
    state = load_file(folder / "model.safetensors")
    del state["lm_head.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="saved without its output embedding"):
        Base.load(str(folder), device="cpu", precision="auto")
