"""Checkpoints with random weights, and what plain transformers make of a trace that passes from one to another."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from tte_runtime.evaluation.plain import PlainEmbedder
from tte_runtime.inputs.items import parse_item
from tte_runtime.models.checkpoint import find_folder
from tte_runtime.recipes.base import Recipe, RolePrompt
from tte_runtime.types import Role, Think

FILES = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")
CHAT = "<|im_start|>user\n{media}{text}<|im_end|>\n<|im_start|>assistant\n"
READS = Recipe(
    name="reads",
    roles={role: RolePrompt("{media}{text}\n", think=False) for role in ("query", "document")},
    readout="last",
    suffix=("<|endoftext|>",),
)
WRITES = Recipe(
    name="writes",
    roles={role: RolePrompt(CHAT.replace("{text}", f"{role}: {{text}}"), think=True) for role in ("query", "document")},
    readout="last",
    stop=("<|im_end|>",),
    max_trace_tokens=12,
)


def token_ids(folder: Path) -> dict[str, int]:
    """What a config says of its tokenizer's special tokens."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    names = {"image": "<|image_pad|>", "video": "<|video_pad|>", "vision_start": "<|vision_start|>"}
    return {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}


def make_checkpoint(folder: Path, seed: int, layers: int = 2, tower_seed: int = 0) -> Path:
    """Random weights in the real layout; towers of one seed are equal."""
    for name in FILES:
        shutil.copy(find_folder("tte-tiny") / name, folder / name)
    torch.manual_seed(seed)
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": -(-len(AutoTokenizer.from_pretrained(folder)) // 64) * 64,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "initializer_range": 0.25,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default", "mrope_section": [2, 3, 3]},
        },
        vision_config={"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2},
        tie_word_embeddings=False,
        **token_ids(folder),
    )
    model = Qwen2VLForConditionalGeneration(config)
    torch.manual_seed(tower_seed)
    for parameter in model.model.visual.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return folder


@dataclass(frozen=True, eq=False)
class Expected:
    """What plain transformers write and embed."""

    trace_ids: tuple[int, ...]
    text: str
    vector: NDArray[np.float32]


def two_models(
    reasoner: Path, embedder: Path, items: list[Any], role: Role = "query", think: bool | Think = True
) -> list[Expected]:
    writer = PlainEmbedder.from_pretrained(reasoner, recipe=WRITES)
    reader = PlainEmbedder.from_pretrained(embedder, recipe=READS)
    same = writer.renderer.tokenizer.get_vocab() == reader.renderer.tokenizer.get_vocab()
    found = []
    for item in items:
        trace = writer.embed(item, role=role, think=think).trace_ids
        stop = writer.renderer.tokenizer.convert_tokens_to_ids("<|im_end|>")
        body = [token for token in trace if token != stop]
        text = writer.renderer.tokenizer.decode(body, skip_special_tokens=True)
        passed = body if same else reader.renderer.tokenizer.encode(text, add_special_tokens=False)
        found.append(Expected(trace, text, encode(reader, item, role, passed)))
    return found


@torch.inference_mode()
def encode(reader: PlainEmbedder, item: Any, role: Role, trace: list[int]) -> NDArray[np.float32]:
    """The normalised last state of prompt + trace + terminal token, in one pass of transformers' own."""
    request = reader.renderer.render(
        parse_item(item), role, None, priority="interactive", normalize=True, arrival=time.perf_counter()
    )
    ids = torch.tensor([[*request.prompt_ids, *trace, *request.suffix_ids]])
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if request.media:
        inputs["pixel_values"] = torch.cat([span.handle.pixels for span in request.media])
        inputs["image_grid_thw"] = torch.tensor([span.handle.grid for span in request.media])
        inputs["mm_token_type_ids"] = (ids == reader.model.config.image_token_id).int()
    reader.model.model.rope_deltas = None
    states = reader.model.model(**inputs).last_hidden_state
    return torch.nn.functional.normalize(states[0, -1].float(), dim=-1).numpy()
