"""LoRA adapters against peft's own merge, in the layouts of old and new releases; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import copy_processors, make_config, save, thinking
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from tte_runtime import Embedder
from tte_runtime.errors import CheckpointError
from tte_runtime.evaluation.plain import PlainEmbedder
from tte_runtime.models.checkpoint import Checkpoint

MODULES = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "qkv", "fc1"]  # the last two are the tower's
ROWS = {"embed_tokens": [1, 89]}  # of the token that every prompt begins with, and of another
PATTERNS = {"rank_pattern": {"v_proj": 3, "layers.0.self_attn.o_proj": 2}, "alpha_pattern": {"v_proj": 5}}
REQUESTS = ["some words", "other words, and more of them 1 2 3 4 5 6 7 8 9"]


def adapter(folder: Path, base: Path, *, tower: bool, **options: Any) -> Path:
    """An adapter with random matrices, trained by nobody, as peft saves it."""
    auto = AutoModelForImageTextToText if tower else AutoModelForCausalLM
    model = auto.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(1)
    wrapped = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": MODULES, **options}))
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
        if "trainable_tokens" in name:
            torch.nn.init.normal_(parameter)
    wrapped.save_pretrained(folder)
    return folder


def vectors(folder: Path, items: list[Any]) -> tuple[list[Any], str]:
    with Embedder.from_pretrained(folder, recipe=thinking()) as embedder:
        return embedder.embed(items, role="query"), embedder.fingerprint


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("qwen2_vl", PATTERNS),
        ("qwen3_vl", {"use_rslora": True}),
        ("llama", {}),
        ("qwen2_vl", {"trainable_token_indices": ROWS}),
        ("qwen2", {"trainable_token_indices": ROWS | {"lm_head": [1, 90]}}),
    ],
    ids=str,
)
def test_as_peft_merges(tmp_path: Path, family: str, options: dict[str, Any]) -> None:
    tower = family.endswith("vl")
    base = save(tmp_path / "base", make_config(family))
    folder = adapter(tmp_path / "adapter", base, tower=tower, **options)
    items = [*REQUESTS, {"image": np.arange(60 * 50 * 3, dtype=np.uint8).reshape(60, 50, 3)}][: 3 if tower else 2]
    plain = PlainEmbedder.from_pretrained(folder, recipe=thinking())
    ours, fingerprint = vectors(folder, items)
    without, other = vectors(base, items)
    assert fingerprint != other
    for item, one, unchanged in zip(items, ours, without, strict=True):
        theirs = plain.embed(item, role="query")
        assert one.trace_ids == theirs.trace_ids and np.abs(one.vector - theirs.vector).max() < 1e-5
        assert np.abs(one.vector - unchanged.vector).max() > 1e-2


def test_older_names_and_own_processors(tmp_path: Path) -> None:
    """Before transformers 4.52 a tower's decoder stood elsewhere; published adapters keep the names of their time."""
    config = make_config("qwen2_vl")
    base = save(tmp_path / "base", config)
    folder = adapter(tmp_path / "adapter", base, tower=True)
    new, fingerprint = vectors(folder, REQUESTS)
    state = load_file(folder / "adapter_model.safetensors")
    assert any(".model.language_model." in name for name in state) and any(".model.visual." in name for name in state)
    for new_name, old_name in ((".model.language_model.", ".model."), (".model.visual.", ".visual.")):
        state = {name.replace(new_name, old_name): tensor for name, tensor in state.items()}
    save_file(state, folder / "adapter_model.safetensors")
    copy_processors(folder, config)
    again, renamed = vectors(folder, REQUESTS)
    assert all(np.abs(one.vector - two.vector).max() < 1e-6 for one, two in zip(new, again, strict=True))
    assert fingerprint != renamed, "every byte of an adapter counts"


def edit(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "of kind 'IA3', not LORA"),
        ({"use_dora": True}, "use_dora=True"),
        ({"bias": "all", "modules_to_save": ["lm_head"]}, r"modules_to_save=\['lm_head'\], bias='all'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"base_model_name_or_path": None}, "does not say what its base is"),
        ({"base_model_name_or_path": "/nowhere"}, "Set base_model_name_or_path"),
        ({"base_model_name_or_path": "."}, "names itself"),
    ],
)
def test_unsupported_adapters(tmp_path: Path, fields: dict[str, Any], message: str, monkeypatch: Any) -> None:
    base = save(tmp_path / "base", make_config("llama"))
    folder = adapter(tmp_path / "adapter", base, tower=False)
    edit(folder, **fields)
    monkeypatch.chdir(folder)
    with pytest.raises(CheckpointError, match=message):
        Embedder.from_pretrained(folder, recipe="last_token")


def test_an_adapter_of_another_base(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter", save(tmp_path / "base", make_config("llama")), tower=False)
    wider = save(tmp_path / "wider", make_config("llama", intermediate_size=96))
    edit(folder, base_model_name_or_path=str(wider))
    with pytest.raises(CheckpointError, match="another base"):
        Embedder.from_pretrained(folder, recipe="last_token")
    rows = adapter(tmp_path / "rows", wider, tower=False, trainable_token_indices=ROWS)
    edit(rows, trainable_token_indices={"embed_tokens": [1]})
    with pytest.raises(CheckpointError, match=r"rows \[1\] of .*another base"):
        Embedder.from_pretrained(rows, recipe="last_token")
    shallow = save(tmp_path / "shallow", make_config("llama", num_hidden_layers=2))
    edit(folder, base_model_name_or_path=str(shallow))
    with pytest.raises(CheckpointError, match=r"layers.2.*another base"):
        Embedder.from_pretrained(folder, recipe="last_token")


def test_tensors_of_other_kinds(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter", save(tmp_path / "base", make_config("llama")), tower=False)
    path = folder / "adapter_model.safetensors"
    state = load_file(path)
    half = next(name for name in state if name.endswith("lora_A.weight"))
    for change, message in (
        ({"base_model.model.lm_head.weight": torch.zeros(2, 2)}, "no matrix of a plain LoRA"),
        ({half: None}, "only lora_B"),
    ):
        save_file({name: t for name, t in {**state, **change}.items() if t is not None}, path)
        with pytest.raises(CheckpointError, match=message):
            Embedder.from_pretrained(folder, recipe="last_token")
    path.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        Embedder.from_pretrained(folder, recipe="last_token")


def test_adapters_of_adapters_are_refused(tmp_path: Path) -> None:
    """Two that name each other have no end, and of a chain only the first would be merged."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, base in ((first, second), (second, first)):
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    for base in (str(first), "tte-tiny"):
        (second / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
        with pytest.raises(CheckpointError, match=r"names .*second as its base, which is an adapter itself"):
            Checkpoint.of(first)
