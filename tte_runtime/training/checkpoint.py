"""Writing the finished checkpoint folder: the ordinary Hugging Face layout, the head, and tte.json.

Knows file names and prompts; nothing of how the weights came to be.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration

from tte_runtime.heads.reference import WEIGHTS, HeadModule
from tte_runtime.training.blueprint import build_image_processor
from tte_runtime.training.written import round_to, write_model

HEAD_LAYERS = 3
TAP_LAYER = 3
# Sizes of each kind of head over states 192 wide: small, because the weights are kept in the repository.
HEADS: dict[str, dict[str, Any]] = {
    "decoder_layers": {"num_layers": HEAD_LAYERS, "readout": "mean"},
    "attention_pooler": {"num_queries": 1, "num_heads": 6, "intermediate_size": 160},
    "latent_attention": {"num_latents": 64, "num_heads": 6, "intermediate_size": 256},
    "qformer": {"num_layers": 1, "num_queries": 8, "num_heads": 6, "intermediate_size": 512},
}
MAX_TRACE_TOKENS = 96
PROMPTS = {
    "query": "<|im_start|>user\n{media}{text}<|im_end|>\n<|im_start|>assistant\n",
    "document": "<|im_start|>user\n{media}document {text}<|im_end|>\n<|im_start|>assistant\n",
}
STOP, SUFFIX = "<|im_end|>", "<|endoftext|>"


def recipe(kind: str = "decoder_layers") -> dict[str, Any]:
    """What tte.json says: how this checkpoint embeds, with which kind of head."""
    return {
        "recipe": "tte_u",
        "roles": {role: {"prompt": prompt, "think": True} for role, prompt in PROMPTS.items()},
        "stop": [STOP],
        "close": [STOP],
        "suffix": [SUFFIX],
        "max_trace_tokens": MAX_TRACE_TOKENS,
        "head": {"kind": kind, **HEADS[kind], "tap_layer": TAP_LAYER, "weights": WEIGHTS},
    }


def round_weights(model: nn.Module) -> None:
    """Round parameters to bfloat16 in place, kept as fp32: what is trained on top sees what will be shipped."""
    round_to(model, torch.bfloat16)


def write_checkpoint(
    folder: Path,
    model: Qwen2VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    head: HeadModule,
    kind: str = "decoder_layers",
) -> None:
    """Write everything but the model card, weights in bfloat16. `model` is not changed; `kind` is the head's."""
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder, model, torch.bfloat16)
    GenerationConfig(
        do_sample=False,
        eos_token_id=tokenizer.convert_tokens_to_ids(STOP),
        pad_token_id=tokenizer.convert_tokens_to_ids(SUFFIX),
        max_new_tokens=MAX_TRACE_TOKENS,
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    build_image_processor().save_pretrained(folder)
    head.save(folder)
    (folder / "tte.json").write_text(json.dumps(recipe(kind), indent=2) + "\n", encoding="utf-8")
