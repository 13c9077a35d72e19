"""Positions, rotary angles, weights and whole forwards against transformers, over unusual shapes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel, Qwen2VLRotaryEmbedding

from tte_runtime import Embedder
from tte_runtime.errors import CheckpointError
from tte_runtime.evaluation.plain import PlainEmbedder
from tte_runtime.models.checkpoint import find_folder, weights_digest
from tte_runtime.models.rope import Rope, mrope_positions
from tte_runtime.models.spec import decoder_spec
from tte_runtime.models.weights import TensorFiles


def small_config(**text: Any) -> Qwen2VLConfig:
    """A small Qwen2-VL config on the bundled tokenizer; `text` overrides fields of the decoder."""
    tokenizer = AutoTokenizer.from_pretrained(find_folder("tte-tiny"))
    heads = text.get("num_attention_heads", 2)
    hidden = text.get("hidden_size", 64)
    quarter = hidden // heads // 8
    fields = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": hidden,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "rope_parameters": {
            "rope_theta": 1000.0,
            "rope_type": "default",
            "mrope_section": [2 * quarter, quarter, quarter],
        },
    }
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")
    }
    return Qwen2VLConfig(
        text_config={**fields, **text},
        vision_config={"depth": 1, "embed_dim": 32, "hidden_size": hidden, "num_heads": 2, "mlp_ratio": 2},
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        tie_word_embeddings=False,
        **ids,
    )


def save(folder: Path, config: Qwen2VLConfig, **options: Any) -> Path:
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder, **options)
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copy(find_folder("tte-tiny") / name, folder / name)
    return folder


@pytest.mark.parametrize(
    "parts",
    [
        [("text", 5)],
        [("image", (1, 4, 6)), ("text", 3)],
        [("text", 2), ("image", (1, 2, 2)), ("text", 1), ("image", (1, 8, 4)), ("text", 2), ("image", (1, 2, 12))],
        [("image", (1, 6, 6))],
    ],
)
def test_positions(parts: list[tuple[str, Any]]) -> None:
    model = Qwen2VLModel(small_config())
    types, grids, spans = [], [], []
    for kind, size in parts:
        if kind == "image":
            t, h, w = size
            spans.append((len(types), (t, h // 2, w // 2), 1.0))
            grids.append(size)
            types += [1] * (t * h * w // 4)
        else:
            types += [0] * size
    grid = torch.tensor(grids) if grids else None
    theirs, delta = model.get_rope_index(
        torch.zeros(1, len(types), dtype=torch.long), torch.tensor([types]), image_grid_thw=grid
    )
    ours, our_delta = mrope_positions(len(types), spans)
    assert torch.equal(ours, theirs[:, 0]) and our_delta == int(delta)


def test_angles() -> None:
    config = small_config(hidden_size=128, num_attention_heads=2)
    positions = torch.randint(0, 400, (3, 19))
    cos, sin = Qwen2VLRotaryEmbedding(config.text_config)(torch.zeros(1), positions[:, None])
    ours = Rope(decoder_spec(config).rope, "cpu")(positions)
    assert torch.equal(ours.cos, cos[0, :, :32]) and torch.equal(ours.sin, sin[0, :, :32])


@pytest.mark.parametrize(
    "text",
    [
        {"num_attention_heads": 4, "num_key_value_heads": 1},
        {"num_attention_heads": 2, "num_key_value_heads": 2, "hidden_size": 128},
        {"num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 192},
        {"num_attention_heads": 2, "num_key_value_heads": 1, "hidden_size": 256},
        {"num_hidden_layers": 1, "intermediate_size": 33},
    ],
    ids=str,
)
def test_shapes(tmp_path: Path, text: dict[str, int]) -> None:
    folder = save(tmp_path / "model", small_config(**text))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 130, 3), dtype=np.uint8))
    items = [{"image": image, "text": "seen from here"}, "only words", {"images": [image, image]}]
    plain = PlainEmbedder.from_pretrained(folder, recipe="last_token")
    with Embedder.from_pretrained(folder, recipe="last_token", max_prefill_tokens=5) as embedder:
        for item, vector in zip(items, embedder.encode(items), strict=True):
            assert np.abs(vector - plain.embed(item, role="query").vector).max() < 1e-5


def test_shards_and_names_make_no_difference(tmp_path: Path) -> None:
    config = small_config()
    single = save(tmp_path / "single", config)
    sharded = save(tmp_path / "sharded", config, max_shard_size="100KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1 and (sharded / "model.safetensors.index.json").is_file()
    vectors = []
    for folder in (single, sharded):
        with Embedder.from_pretrained(folder, recipe="last_token") as embedder:
            vectors.append(embedder.encode("some words"))
    assert np.array_equal(*vectors)
    assert weights_digest(single) != weights_digest(sharded)
    next(sharded.glob("*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="missing"):
        TensorFiles(sharded)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"use_sliding_window": True, "max_window_layers": 0}, "sliding-window"), ({"rope": "dynamic"}, "rope_type")],
)
def test_what_is_not_served_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = save(tmp_path / "model", small_config())
    entry = json.loads((folder / "config.json").read_text())
    text = entry["text_config"]
    if "rope" in change:
        text["rope_parameters"].update(rope_type=change["rope"], factor=2.0)
    else:
        text.update(change, sliding_window=64, layer_types=["sliding_attention"] * text["num_hidden_layers"])
    (folder / "config.json").write_text(json.dumps(entry))
    with pytest.raises(CheckpointError, match=message):
        Embedder.from_pretrained(folder, recipe="last_token")
