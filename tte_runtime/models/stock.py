"""A checkpoint as transformers' own model: what the plain baseline runs, and what training trains. Knows no engine."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from tte_runtime.models.checkpoint import Checkpoint
from tte_runtime.models.gguf import pretrained_model


def load_stock(checkpoint: Checkpoint, config: Any, dtype: torch.dtype, *, attention: str = "sdpa") -> Any:
    """The model with its output embedding, an adapter merged in by peft.

    Args:
        checkpoint: where its parts lie.
        config: its transformers config.
        dtype: of all weights.
        attention: transformers' name of an implementation.
    """
    auto = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    model = auto.from_pretrained(**pretrained_model(checkpoint.model), dtype=dtype, attn_implementation=attention)
    if not checkpoint.adapted:
        return model
    from peft import PeftModel

    return PeftModel.from_pretrained(model, checkpoint.folder).merge_and_unload()
