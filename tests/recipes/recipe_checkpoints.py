"""Checkpoints with random weights in the authors' layouts, on a tokenizer of bytes and Qwen's special tokens.

Every character of a prompt is a token of its own, so equal ids mean equal strings, white space included.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
VOCAB_SIZE = 320
TEXT = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.3,
}
ROPE = {"rope_theta": 10000.0, "rope_type": "default"}
VISION: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2},
    "qwen2_5_vl": {
        "depth": 2,
        "hidden_size": 32,
        "out_hidden_size": 64,
        "num_heads": 2,
        "intermediate_size": 48,
        "fullatt_block_indexes": [1],
    },
    "qwen3_vl": {
        "depth": 2,
        "hidden_size": 32,
        "out_hidden_size": 64,
        "num_heads": 2,
        "intermediate_size": 48,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    },
}


def byte_tokenizer(added: Iterable[str]) -> PreTrainedTokenizerFast:
    """256 bytes, Qwen's special tokens, and `added` ones."""
    alphabet = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.add_tokens([*SPECIAL, *added], special_tokens=True)
    return fast


def save_processor(folder: Path, family: str) -> None:
    """The image processor's config with limits of its own, under the names that Qwen2-VL's file has them."""
    patch, half = (16, [0.5] * 3) if family == "qwen3_vl" else (14, None)
    entry = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "min_pixels": 56 * 56,
        "max_pixels": 112 * 112,
        "patch_size": patch,
        "temporal_patch_size": 2,
        "merge_size": 2,
    }
    if half is not None:
        entry |= {"image_mean": half, "image_std": half}
    (folder / "preprocessor_config.json").write_text(json.dumps(entry))


def build(folder: Path, family: str, added: Iterable[str] = (), seed: int = 0) -> Path:
    """A checkpoint as its authors save one: config, tokenizer with their tokens, processor, weights."""
    folder.mkdir(parents=True)
    tokenizer = byte_tokenizer(added)
    tokenizer.save_pretrained(folder)
    save_processor(folder, family)
    ids = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    text = TEXT | {"rope_parameters": ROPE | {"mrope_section": [4, 2, 2] if family == "qwen3_vl" else [2, 3, 3]}}
    config = AutoConfig.for_model(
        family,
        text_config=text | ({"head_dim": 16} if family == "qwen3_vl" else {}),
        vision_config=VISION[family],
        tie_word_embeddings=False,
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in ids.items()},
    )
    torch.manual_seed(seed)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    return folder


def load(folder: Path) -> Any:
    """The checkpoint in plain transformers, fp32."""
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
