"""Checkpoints of every family with random weights, as transformers saves them, on the bundled tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from tte_runtime.models.checkpoint import find_folder
from tte_runtime.recipes.base import Recipe, RolePrompt

WITH_TOWER = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
TEXT_ONLY = ("qwen2", "qwen3", "llama")
TINY = find_folder("tte-tiny")

# Weights are drawn wide, so that attention is far from uniform and greedy traces vary.
TOWERS: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"depth": 2, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 2, "initializer_range": 0.2},
    "qwen2_5_vl": {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "window_size": 56,
        "fullatt_block_indexes": [1],
        "initializer_range": 0.2,
    },
    "qwen3_vl": {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 16,
        "num_position_embeddings": 36,
        "deepstack_visual_indexes": [0, 2],
        "initializer_range": 0.2,
    },
}


def thinking() -> Recipe:
    """A recipe of the test's own: a trace of at most 6 tokens, then a suffix."""
    prompt = RolePrompt("<|im_start|>user\n{media}{text}<|im_end|>\n<|im_start|>assistant\n", think=True)
    return Recipe(
        name="thinking",
        roles={"query": prompt, "document": prompt},
        readout="last",
        stop=("<|im_end|>",),
        close=("<|im_end|>",),
        suffix=("<|endoftext|>",),
        max_trace_tokens=6,
    )


def make_config(family: str, *, heads: int = 4, kv_heads: int = 2, head_dim: int = 32, **text: Any) -> Any:
    """A small config of a family; `text` overrides fields of the decoder's."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    own_dim = family in ("qwen3", "qwen3_vl", "llama")  # these say head_dim; the others have C = H * D
    fields: dict[str, Any] = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": 32 * heads if own_dim else heads * head_dim,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "rope_parameters": {"rope_theta": 1000.0, "rope_type": "default"},
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if own_dim:
        fields["head_dim"] = head_dim
    if family in TEXT_ONLY:
        return AutoConfig.for_model(family, **{**fields, **text})
    height = head_dim // 8 + 1  # uneven, so that an axis taken for another shows
    fields["rope_parameters"]["mrope_section"] = [head_dim // 2 - 2 * height + 1, height, height - 1]
    tower = {**TOWERS[family], "hidden_size" if family == "qwen2_vl" else "out_hidden_size": fields["hidden_size"]}
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in names.items()}
    return AutoConfig.for_model(
        family, text_config={**fields, **text}, vision_config=tower, tie_word_embeddings=False, **ids
    )


def save(folder: Path, config: Any, **options: Any) -> Path:
    """A checkpoint of `config` with random weights; `options` go to `save_pretrained`."""
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True, parents=True)
    auto = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    model = auto.from_config(config)
    with torch.no_grad():  # transformers starts norms at one and biases at zero, where a forgotten one would not show
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.save_pretrained(folder, **options)
    copy_processors(folder, config)
    return folder


def copy_processors(folder: Path, config: Any) -> None:
    """The bundled tokenizer, and its image processor with the patches that `config` wants."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, folder / name)
    if hasattr(config, "vision_config"):
        entry = json.loads((TINY / "preprocessor_config.json").read_text())
        entry["patch_size"] = config.vision_config.patch_size
        entry["size"] = {"shortest_edge": 3_000, "longest_edge": 16_000}
        (folder / "preprocessor_config.json").write_text(json.dumps(entry))
