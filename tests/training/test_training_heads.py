"""Heads that learn together learn what each would alone, and what is finished is not trained again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tte_runtime.training.bank import make_bank
from tte_runtime.training.blueprint import build_config, build_model, build_tokenizer
from tte_runtime.training.checkpoint import HEADS
from tte_runtime.training.head import train_head, train_heads
from tte_runtime.training.lessons import Round
from tte_runtime.training.tokens import Encoder

ROUNDS = (Round(2, 0.05, True, 1.0), Round(2, 0.05, False, 1.0))  # a run's first step has a learning rate of 0


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """The leading arguments of `train_head`, and a folder."""
    tokenizer = build_tokenizer()
    model = build_model(build_config(tokenizer), seed=0).eval()
    folder = tmp_path_factory.mktemp("heads")
    bank = make_bank(model.model.visual, folder / "bank.safetensors", seed=0, split="train", scenes=30, renderings=1)
    return model, bank, Encoder(tokenizer), folder


def test_together_is_as_alone(school: Any) -> None:
    *parts, folder = school
    options = {"rounds": ROUNDS, "batch_size": 4, "seed": 1}
    together = train_heads(*parts, folder / "together", **options)
    assert list(together) == list(HEADS)
    alone = train_head(*parts, folder / "alone", kind="qformer", **options).state_dict()
    first = load_file(folder / "alone" / "head0.safetensors")
    assert (folder / "alone" / "head1.safetensors").is_file()
    assert any(not torch.equal(first[name], value) for name, value in alone.items()), "the second round taught nothing"
    for name, value in together["qformer"].state_dict().items():
        assert torch.equal(value, alone[name]), name


def test_only_what_is_missing_is_trained(school: Any, capsys: pytest.CaptureFixture[str]) -> None:
    *parts, folder = school
    options = {"rounds": (Round(1, 0.01, True, 1.0),), "batch_size": 4, "seed": 1}
    first = train_heads(*parts, folder / "later", kinds=["attention_pooler"], **options)
    kept = (folder / "later" / "head0.attention_pooler.safetensors").stat().st_mtime_ns
    both = train_heads(*parts, folder / "later", kinds=["attention_pooler", "latent_attention"], **options)
    assert (folder / "later" / "head0.attention_pooler.safetensors").stat().st_mtime_ns == kept
    assert (folder / "later" / "head0.latent_attention.safetensors").is_file()
    for name, value in first["attention_pooler"].state_dict().items():
        assert torch.equal(value, both["attention_pooler"].state_dict()[name])
