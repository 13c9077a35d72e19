"""Weights in every layout that checkpoints are published in: names, shards, without an output embedding, GGUF."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from checkpoints import make_config, save, thinking
from safetensors.torch import load_file, save_file

from tte_runtime import Embedder
from tte_runtime.errors import CheckpointError, MissingExtraError, RecipeError, UnsupportedModelError
from tte_runtime.evaluation.plain import PlainEmbedder
from tte_runtime.models.checkpoint import HASHED_FILES, Checkpoint, weights_digest
from tte_runtime.models.weights import TensorFiles

WORDS = "some words, and enough of them for more than a page: 1 2 3 4 5 6 7 8 9 10 11 12"


def embed(path: Path, recipe: Any = "last_token") -> np.ndarray:
    with Embedder.from_pretrained(path, recipe=recipe) as embedder:
        return embedder.embed(WORDS, role="query").vector


def rename(folder: Path, *changes: tuple[str, str]) -> None:
    """Tensors that begin with the first of a pair begin with the second; without one (""), they are left out."""
    path = folder / "model.safetensors"
    renamed = {}
    for name, tensor in load_file(path).items():
        for old, new in changes:
            if name.startswith(old):
                name = new + name[len(old) :]
                break
        renamed[name] = tensor
    save_file(renamed, path)


SAVED = {  # prefixes of decoder and tower as transformers 5 saves them
    "qwen2_vl": ("model.", "visual."),
    "qwen3_vl": ("model.language_model.", "model.visual."),
    "qwen3": ("model.", None),
}


@pytest.mark.parametrize("family", SAVED)
@pytest.mark.parametrize(
    "layout",
    [
        ("model.", "visual."),  # the hub's, of towers before Qwen3-VL and of text models
        ("model.language_model.", "model.visual."),  # transformers since 4.52
        ("language_model.", "visual."),  # a base model, saved without its output embedding
        ("language_model.model.", "visual."),
    ],
    ids=lambda layout: layout[0],
)
def test_names(tmp_path: Path, family: str, layout: tuple[str, str]) -> None:
    folder = save(tmp_path / "model", make_config(family))
    expected = embed(folder)
    decoder, tower = SAVED[family]
    assert decoder + "embed_tokens.weight" in TensorFiles(folder), "transformers saves under other names than it did"
    rename(folder, *([(tower, layout[1])] if tower else []), (decoder, layout[0]))
    assert np.array_equal(embed(folder), expected)


def test_shards_make_no_difference(tmp_path: Path) -> None:
    config = make_config("qwen3_vl")
    single = save(tmp_path / "single", config)
    sharded = save(tmp_path / "sharded", config, max_shard_size="100KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1 and (sharded / "model.safetensors.index.json").is_file()
    assert np.array_equal(embed(single), embed(sharded))
    assert weights_digest(Checkpoint.of(single)) != weights_digest(Checkpoint.of(sharded))
    next(sharded.glob("*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="missing"):
        TensorFiles(sharded)


@pytest.mark.parametrize("tied", [False, True])
def test_without_an_output_embedding(tmp_path: Path, tied: bool) -> None:
    """As sentence-transformers saves text embedders. Where embeddings are tied, nothing is missing."""
    folder = save(tmp_path / "model", make_config("qwen3", tie_word_embeddings=tied))
    expected = embed(folder)
    rename(folder, ("model.", ""))
    state = load_file(folder / "model.safetensors")
    state.pop("lm_head.weight", None)
    save_file(state, folder / "model.safetensors")
    assert np.array_equal(embed(folder), expected)
    if tied:
        assert embed(folder, thinking()).any()
    else:
        with pytest.raises(RecipeError, match="without its output embedding"):
            embed(folder, thinking())


NAMES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attn_output",
    **{f"self_attn.{x}_proj": f"attn_{x}" for x in "qkv"},
    **{f"self_attn.{x}_norm": f"attn_{x}_norm" for x in "qk"},
    **{f"mlp.{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")},
}


def write_gguf(folder: Path, config: Any, *, packed: bool) -> Path:
    """The checkpoint in `folder` as llama.cpp's converter would write it, matrices in 8-bit blocks if `packed`."""
    path = folder / "model.gguf"
    writer = gguf.GGUFWriter(path, config.model_type)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if hasattr(config, "head_dim"):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    for name, tensor in load_file(folder / "model.safetensors").items():
        *blocks, kind = name.removeprefix("model.").removeprefix("layers.").rsplit(".", 1)
        block, _, module = blocks[0].partition(".") if name.startswith("model.layers.") else ("", "", blocks[0])
        target = (f"blk.{block}." if block else "") + NAMES[module] + "." + kind
        data = tensor.float().numpy()
        quantize = packed and data.ndim == 2
        kind_of = gguf.GGMLQuantizationType.Q8_0 if quantize else gguf.GGMLQuantizationType.F32
        writer.add_tensor(target, gguf.quants.quantize(data, kind_of), raw_dtype=kind_of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_gguf(tmp_path: Path, family: str) -> None:
    config = make_config(family, head_dim=128, heads=2, intermediate_size=96)  # the reader knows no other dim for qwen3
    folder = save(tmp_path / "model", config)
    path = write_gguf(folder, config, packed=False)
    expected = embed(folder, thinking())
    assert np.array_equal(embed(path, thinking()), expected)
    write_gguf(folder, config, packed=True)
    ours = embed(path, thinking())
    theirs = PlainEmbedder.from_pretrained(path, recipe=thinking()).embed(WORDS, role="query").vector
    assert np.abs(ours - theirs).max() < 1e-5 < np.abs(ours - expected).max()
    (folder / "model.safetensors").unlink()
    assert np.array_equal(embed(folder, thinking()), ours), "a folder with one GGUF file is named by the folder, too"
    shutil.copy(path, folder / "other.gguf")
    with pytest.raises(CheckpointError, match=r"Give the path of one: model\.gguf, other\.gguf"):
        embed(folder)


def test_bad_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF and nothing else")
    with pytest.raises(CheckpointError, match="cannot be read as GGUF"):
        embed(path)
    writer = gguf.GGUFWriter(path, "gemma2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UnsupportedModelError, match="gemma2"):
        embed(path)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("tte_runtime.models.gguf.find_spec", lambda name: None if name == "gguf" else find_spec(name))
    with pytest.raises(MissingExtraError, match=r"pip install 'tte-runtime\[gguf\]'"):
        embed(path)


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": []}', '{"weight_map": null}', "no JSON"])
def test_an_index_that_is_none(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json is no weight index"):
        TensorFiles(tmp_path)


@pytest.mark.parametrize("name", HASHED_FILES)
def test_every_file_that_decides_vectors_is_in_the_digest(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    digests = []
    for content in (None, "{}", "{ }"):
        if content is not None:
            (tmp_path / name).write_text(content)
        digests.append(weights_digest(Checkpoint(tmp_path, tmp_path, tmp_path)))
    assert len(set(digests)) == 3
    assert {"tokenizer_config.json", "vocab.json", "merges.txt"} <= set(HASHED_FILES)
