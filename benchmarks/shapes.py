"""Checkpoints of a model's shape, made on the spot with random weights in the real layout; the bundled one as it is.

Shapes are those of the published configs (Qwen/Qwen2-VL-2B-Instruct, Qwen/Qwen2-VL-7B-Instruct,
Qwen/Qwen3-VL-2B-Instruct); the tokenizer is tte-tiny's, whose ids all lie inside their vocabularies. What such a model
writes means nothing and takes as long as if it did. Knows folders; measures nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer

from tte_runtime.errors import ContextError
from tte_runtime.heads.reference import ReferenceHead
from tte_runtime.models.checkpoint import find_folder
from tte_runtime.recipes.base import Recipe, RolePrompt
from tte_runtime.recipes.registry import choose_recipe

__all__ = ["SHAPES", "Shape", "check_room", "folder_of", "recipe_of"]

TINY = "tte-tiny"
WORDS = 64  # tokens that the words of a prompt take at most, what surrounds them included
NO_IDS = {"bos_token_id": None, "eos_token_id": None}  # the published ones lie outside a small vocabulary
QWEN2_ROPE = {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]}


@dataclass(frozen=True)
class Shape:
    """One model's shape.

    Attributes:
        name: for the command line.
        family: transformers' prefix of its classes, "Qwen2VL" or "Qwen3VL"; "" for the bundled checkpoint.
        text, vision: fields of the config. tied: output embeddings are the input embeddings.
        pixels_a_token: side of the square of pixels that becomes one token.
    """

    name: str
    family: str = ""
    text: tuple[tuple[str, Any], ...] = ()
    vision: tuple[tuple[str, Any], ...] = ()
    tied: bool = True
    pixels_a_token: int = 28


def _qwen2(name: str, tied: bool, vision: dict[str, Any], **text: Any) -> Shape:
    tower = {"mlp_ratio": 4, "hidden_size": text["hidden_size"], "patch_size": 14, **vision}
    text = {"max_position_embeddings": 32768, "rope_parameters": QWEN2_ROPE, **NO_IDS, **text}
    return Shape(name, "Qwen2VL", tuple(text.items()), tuple(tower.items()), tied)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape(TINY),
        _qwen2(
            "qwen2vl-small",  # ours, for a CPU: 37 M parameters, 4 times what its last cache holds
            True,
            {"depth": 4, "embed_dim": 256, "num_heads": 4},
            hidden_size=512,
            intermediate_size=2048,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=2,
            vocab_size=8192,
            initializer_range=0.08,  # at 0.02 a tied model repeats the prompt's last token
            rope_parameters={**QWEN2_ROPE, "mrope_section": [8, 12, 12]},
        ),
        _qwen2(
            "qwen2vl-2b",
            True,
            {"depth": 32, "embed_dim": 1280, "num_heads": 16},
            hidden_size=1536,
            intermediate_size=8960,
            num_hidden_layers=28,
            num_attention_heads=12,
            num_key_value_heads=2,
            vocab_size=151936,
        ),
        _qwen2(
            "qwen2vl-7b",
            False,
            {"depth": 32, "embed_dim": 1280, "num_heads": 16},
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            vocab_size=152064,
        ),
        Shape(
            "qwen3vl-2b",
            "Qwen3VL",
            (
                ("hidden_size", 2048),
                ("intermediate_size", 6144),
                ("num_hidden_layers", 28),
                ("num_attention_heads", 16),
                ("num_key_value_heads", 8),
                ("head_dim", 128),
                ("vocab_size", 151936),
                ("max_position_embeddings", 262144),
                (
                    "rope_parameters",
                    {
                        "rope_type": "default",
                        "rope_theta": 5_000_000.0,
                        "mrope_section": [24, 20, 20],
                        "mrope_interleaved": True,
                    },
                ),
            ),
            (
                ("depth", 24),
                ("hidden_size", 1024),
                ("intermediate_size", 4096),
                ("num_heads", 16),
                ("out_hidden_size", 2048),
                ("patch_size", 16),
                ("num_position_embeddings", 2304),
                ("deepstack_visual_indexes", [5, 11, 17]),
            ),
            pixels_a_token=32,
        ),
    )
}


def recipe_of(shape: Shape, *, head: bool = False) -> Recipe:
    """tte-tiny's own; for random weights the same prompts, read at the last token unless a head is asked for."""
    tiny = choose_recipe(find_folder(TINY), None)
    if shape.name == TINY or head:
        return tiny
    roles = {role: RolePrompt(prompt.prompt, think=True) for role, prompt in tiny.roles.items()}
    return replace(tiny, name="benchmark", roles=roles, readout="last")


def check_room(shape: Shape, *, image: int, trace: int | None) -> None:
    """Refuse at the door what cannot fit, on which plain transformers would spend minutes before the engine does.

    Args:
        shape: whose context it is. image: tokens of a picture. trace: tokens of a trace, `None` for the model's own.

    Raises:
        ContextError: a picture, a prompt's words and the trace are more than the model's context.
    """
    text = dict(shape.text) or json.loads((find_folder(TINY) / "config.json").read_text())["text_config"]
    context = text["max_position_embeddings"]
    if image + WORDS + (trace or 0) > context:
        raise ContextError(
            f"a picture of {image} tokens, up to {WORDS} of words and a trace of {trace or 0} must fit the "
            f"{context} tokens of {shape.name}'s context. Ask for a smaller picture or a shorter trace."
        )


def folder_of(shape: Shape, cache: Path, *, image_tokens: int, device: str, dtype: torch.dtype) -> Path:
    """A checkpoint of `shape` under `cache`, made unless it is there.

    Args:
        cache: kept between runs; a folder counts as made once it has its final name.
        image_tokens: what the bundled checkpoint's processor would make of a picture of its own size is 16; for any
            other number it is copied with a processor that leaves sizes alone.
        device: where random weights are drawn (7 billion take minutes on a CPU). dtype: of the saved weights.
    """
    if shape.name == TINY and image_tokens == 16:
        return find_folder(TINY)
    folder = cache / (shape.name if shape.name == TINY else f"{shape.name}-{str(dtype).removeprefix('torch.')}")
    if not folder.is_dir():
        make = _copy_tiny if shape.name == TINY else _random(shape, device, dtype)
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        make(unfinished)
        _free_sizes(shape, unfinished)
        unfinished.rename(folder)
    return folder


def _copy_tiny(folder: Path) -> None:
    shutil.copytree(find_folder(TINY), folder, dirs_exist_ok=True)


def _free_sizes(shape: Shape, folder: Path) -> None:
    """A processor that takes pictures as they are, up to 4,096 tokens."""
    entry = json.loads((find_folder(TINY) / "preprocessor_config.json").read_text())
    side = shape.pixels_a_token
    entry |= {"size": {"shortest_edge": side**2, "longest_edge": 4096 * side**2}, "patch_size": side // 2}
    if shape.family == "Qwen3VL":
        entry |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(entry))


def _random(shape: Shape, device: str, dtype: torch.dtype) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(find_folder(TINY) / name, folder / name)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        named = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
        ids = {f"{key}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for key, name in named.items()}
        config = getattr(transformers, f"{shape.family}Config")(
            text_config=dict(shape.text), vision_config=dict(shape.vision), tie_word_embeddings=shape.tied, **ids
        )
        torch.manual_seed(0)
        with torch.device(device):
            model = getattr(transformers, f"{shape.family}ForConditionalGeneration")._from_config(config, dtype=dtype)
        model.generation_config.eos_token_id = None
        model.save_pretrained(folder)
        if shape.family == "Qwen2VL":  # the one family that a head can be made for
            _save_head(folder, model)

    return make


def _save_head(folder: Path, model: Any) -> None:
    """A head of TTE_u's default proportions: a copy of the last 8 layers of 28, or as many of fewer."""
    text = model.config.get_text_config()
    count = max(1, round(text.num_hidden_layers * 8 / 28))
    head = ReferenceHead(model.config, count).to(model.device, model.dtype)
    head.initialise_from(model.model.language_model)
    head.save(folder)
    entry = json.loads((find_folder(TINY) / "tte.json").read_text())
    entry["head"] |= {"num_layers": count, "tap_layer": text.num_hidden_layers - count}
    (folder / "tte.json").write_text(json.dumps(entry))
