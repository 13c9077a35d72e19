"""Positions and rotary frequencies against transformers; and configs whose arithmetic the decoder does not have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import TEXT_ONLY, WITH_TOWER, make_config, save
from transformers import AutoModelForImageTextToText

from tte_runtime import Embedder
from tte_runtime.errors import CheckpointError, UnsupportedModelError
from tte_runtime.evaluation.plain import PlainEmbedder
from tte_runtime.models.rope import mrope_positions
from tte_runtime.models.spec import decoder_spec

WORDS = "words enough for positions beyond the length that a scaled model was first trained on: " + "1 2 3 4 " * 20


@pytest.mark.parametrize("family", WITH_TOWER)
@pytest.mark.parametrize(
    "parts",
    [
        [("text", 5)],
        [("image", (1, 4, 6)), ("text", 3)],
        [("text", 2), ("image", (1, 2, 2)), ("text", 1), ("image", (1, 8, 4)), ("text", 2), ("image", (1, 2, 12))],
        [("image", (1, 6, 6))],
    ],
)
def test_positions(family: str, parts: list[tuple[str, Any]]) -> None:
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(make_config(family)).model
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


@pytest.mark.parametrize(
    ("family", "rope"),
    [
        ("llama", {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}),
        ("qwen3", {"rope_type": "linear", "factor": 3.0}),
        ("qwen2", {"rope_type": "yarn", "factor": 4.0}),
        ("qwen2_5_vl", {"rope_type": "yarn", "factor": 4.0}),
    ],
    ids=str,
)
def test_scaled_frequencies(tmp_path: Path, family: str, rope: dict[str, Any]) -> None:
    config = make_config(family)
    plain_vector = embed(save(tmp_path / "plain", config))
    text = config.get_text_config()
    text.rope_parameters = {**text.rope_parameters, **rope, "original_max_position_embeddings": 64}
    folder = save(tmp_path / "scaled", config)
    ours = embed(folder)
    theirs = PlainEmbedder.from_pretrained(folder, recipe="last_token").embed(WORDS, role="query").vector
    assert np.abs(ours - theirs).max() < 1e-5 < np.abs(ours - plain_vector).max()


def embed(folder: Path) -> np.ndarray:
    with Embedder.from_pretrained(folder, recipe="last_token") as embedder:
        return embedder.embed(WORDS, role="query").vector


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("qwen2_vl", {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, "sliding-window"),
        ("qwen3", {"layer_types": ["sliding_attention"] * 3}, "sliding-window"),
        ("qwen2", {"rope": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic'"),
        ("llama", {"rope": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ("llama", {"attention_bias": True}, "attention_bias=true"),
        ("llama", {"mlp_bias": True}, "mlp_bias=true"),
        ("qwen3", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ],
    ids=str,
)
def test_what_the_decoder_lacks_is_refused(tmp_path: Path, family: str, change: dict[str, Any], message: str) -> None:
    path = save(tmp_path / "model", make_config(family)) / "config.json"
    entry = json.loads(path.read_text())
    text = entry.get("text_config", entry)
    text["rope_parameters"].update(change.pop("rope", {}))
    text.update(change)
    path.write_text(json.dumps(entry))
    with pytest.raises(UnsupportedModelError, match=message):
        Embedder.from_pretrained(path.parent, recipe="last_token")


@pytest.mark.parametrize("family", WITH_TOWER)
@pytest.mark.parametrize("section", [[4, 4, 4], [8, 8], None])
def test_sections_that_do_not_fit(family: str, section: list[int] | None) -> None:
    config = make_config(family)
    config.text_config.rope_parameters["mrope_section"] = section
    with pytest.raises(CheckpointError, match="sum to head_dim / 2 = 16"):
        decoder_spec(config)


@pytest.mark.parametrize("family", WITH_TOWER + TEXT_ONLY)
def test_older_configs(tmp_path: Path, family: str) -> None:
    """Hub configs of before transformers 5: `rope_theta` and `rope_scaling` by themselves, no nesting in Qwen2."""
    config = make_config(family)
    path = save(tmp_path / "model", config) / "config.json"
    expected = embed(path.parent)
    entry = json.loads(path.read_text())
    text = entry.get("text_config", entry)
    rope = text.pop("rope_parameters")
    text["rope_theta"] = rope["rope_theta"]
    if "mrope_section" in rope:
        section = rope["mrope_section"]
        kind = {"rope_type": "default", "mrope_interleaved": True} if family == "qwen3_vl" else {"type": "mrope"}
        text["rope_scaling"] = {**kind, "mrope_section": section}
    if family in ("qwen2_vl", "qwen2_5_vl"):
        entry |= {key: value for key, value in entry.pop("text_config").items() if key != "model_type"}
    path.write_text(json.dumps(entry))
    assert np.array_equal(embed(path.parent), expected)
