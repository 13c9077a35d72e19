"""A checkpoint with random weights in the real layout, and requests of every shape to run on it."""

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

from tte_runtime.heads.reference import ReferenceHead
from tte_runtime.models.checkpoint import find_folder

COPIED = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "tte.json")


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 layers, 4 heads over 2 kv heads, untied and strongly random, so that greedy traces vary; a head on layer 2."""
    folder = tmp_path_factory.mktemp("random")
    tiny = find_folder("tte-tiny")
    for name in COPIED:
        shutil.copy(tiny / name, folder / name)
    tokenizer = AutoTokenizer.from_pretrained(tiny)

    def token(text: str) -> int:
        return tokenizer.convert_tokens_to_ids(text)

    torch.manual_seed(7)
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": -(-len(tokenizer) // 64) * 64,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "initializer_range": 0.25,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default", "mrope_section": [2, 3, 3]},
        },
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 64,
            "num_heads": 2,
            "mlp_ratio": 2,
            "initializer_range": 0.2,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    ReferenceHead(config, num_layers=2).save(folder)
    entry = json.loads((folder / "tte.json").read_text())
    entry["head"].update(num_layers=2, tap_layer=2)
    (folder / "tte.json").write_text(json.dumps(entry))
    return folder


def picture(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="session")
def requests() -> list[tuple[Any, str, int]]:
    """52 requests as (item, role, trace limit): text, one picture, several, odd sizes, with and without a trace."""
    rng = np.random.default_rng(3)
    shared = picture(rng, 112, 112)
    sizes = [(28, 28), (57, 31), (200, 90), (33, 301), (112, 112), (1, 9)]
    made: list[tuple[Any, str, int]] = []
    for i in range(13):
        words = " ".join(str(n) for n in rng.integers(0, 999, 1 + 3 * i))
        role = "query" if i % 2 else "document"
        made.append((f"text {words}", role, i % 5 * 4))
        made.append(({"image": picture(rng, *sizes[i % 6]), "text": words}, role, 9))
        made.append(({"image": shared, "text": f"what is {i}?"}, "query", 6 + i))
        made.append(({"images": [picture(rng, *sizes[(i + j) % 6]) for j in range(1 + i % 3)]}, role, i % 3 * 5))
    return made
