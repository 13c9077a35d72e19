"""Reasoner, embedder and head on bases of every family: what training saw is what the runtime serves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_data import make_base, make_data

from tte_runtime import Embedder
from tte_runtime.heads.spec import KINDS
from tte_runtime.training.base import Base
from tte_runtime.training.examples import read_examples
from tte_runtime.training.stages import embedder as embedder_stage
from tte_runtime.training.stages import head as head_stage
from tte_runtime.training.stages.embedder import train_embedder
from tte_runtime.training.stages.head import train_head
from tte_runtime.training.stages.reasoner import train_reasoner
from tte_runtime.training.stages.run import Options
from tte_runtime.training.vectors import Vectors

SMALL = Options(epochs=1, batch_size=4, mini_batch=2, learning_rate=1e-3, seed=1, device="cpu")


@pytest.fixture()
def trained(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Vectors]]:
    """What the stages embedded with, the trained model in memory; the last one is the latest."""
    made: list[Vectors] = []

    def remember(*parts: Any, **options: Any) -> Vectors:
        made.append(Vectors(*parts, **options))
        return made[-1]

    monkeypatch.setattr(embedder_stage, "Vectors", remember)
    monkeypatch.setattr(head_stage, "Vectors", remember)
    yield made


def assert_served_as_trained(out: Path, vectors: Vectors, data: Path) -> None:
    examples = read_examples(data, positives=True)
    with Embedder.from_pretrained(out) as embedder:
        for role, entries in (
            ("query", [one.query for one in examples]),
            ("document", [one.positive for one in examples if one.positive]),
        ):
            with torch.no_grad():
                seen = vectors.embed(entries).numpy()
            served = np.stack([r.vector for r in embedder.embed([e.item for e in entries], role=role, think=True)])
            assert np.abs(seen - served).max() < 1e-5


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen2", "qwen3", "llama"])
def test_every_family(tmp_path: Path, family: str, trained: list[Vectors]) -> None:
    base = make_base(tmp_path / "base", family)
    data = make_data(tmp_path / "data", pictures=family.endswith("vl"))
    reasoner = train_reasoner(str(base), data, tmp_path / "reasoner", options=SMALL)
    before, after = (Base.load(str(one), device="cpu", precision="float32").model for one in (base, reasoner))
    states = before.state_dict()
    moved = {name for name, tensor in after.state_dict().items() if not torch.equal(tensor, states[name])}
    assert "lm_head.weight" in moved and any("layers.0.mlp" in name for name in moved)
    assert not any("visual" in name for name in moved)
    adapter = train_embedder(str(reasoner), data, tmp_path / "adapter", options=replace(SMALL, lora=(4, 16)))
    assert not (adapter / "model.safetensors").exists()
    assert_served_as_trained(adapter, trained[-1], data)
    unified = train_head(str(reasoner), data, tmp_path / "unified", options=SMALL)
    assert_served_as_trained(unified, trained[-1], data)


def test_whole_weights_and_another_readout(tmp_path: Path, trained: list[Vectors]) -> None:
    base = make_base(tmp_path / "base", "qwen3_vl")
    data = make_data(tmp_path / "data", pictures=True)
    whole = train_embedder(str(base), data, tmp_path / "whole", options=SMALL)
    assert_served_as_trained(whole, trained[-1], data)
    direct = train_embedder(str(base), data, tmp_path / "direct", recipe="last_token", negatives=1, options=SMALL)
    examples = read_examples(data, positives=True)
    assert trained[-1].traced([one.query for one in examples]).startswith("0 of 6")
    with Embedder.from_pretrained(direct) as embedder, torch.no_grad():
        items = [{key: value for key, value in one.query.item.items() if key != "trace"} for one in examples]
        seen = trained[-1].embed([one.query for one in examples]).numpy()
        assert np.abs(embedder.encode(items) - seen).max() < 1e-5


def test_every_kind_of_head_is_trained(tmp_path: Path, trained: list[Vectors]) -> None:
    base = make_base(tmp_path / "base", "qwen2")
    data = make_data(tmp_path / "data", pictures=False)
    for kind in KINDS:
        sizes = {} if kind == "decoder_layers" else {"num_heads": 4, "intermediate_size": 32}
        options = replace(SMALL, learning_rate=1e-2)
        out = train_head(str(base), data, tmp_path / kind, kind=kind, sizes=sizes, options=options)
        assert trained[-1].head is not None and (out / "head.safetensors").is_file()
