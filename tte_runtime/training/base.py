"""A base model made ready to be trained: transformers' own, its tower frozen, whole or with a LoRA adapter on it.

Also the other way: what was trained as a checkpoint that the runtime serves. Knows files and parameters; knows nothing
of data and losses.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tte_runtime.config import resolve_device
from tte_runtime.errors import CheckpointError, MissingExtraError, OptionError, one_of
from tte_runtime.inputs.prompt import PromptRenderer
from tte_runtime.models.checkpoint import ADAPTER_CONFIG, Checkpoint, find_folder, read_config
from tte_runtime.models.gguf import is_gguf
from tte_runtime.models.stock import load_stock
from tte_runtime.models.weights import TensorFiles
from tte_runtime.recipes.base import Recipe
from tte_runtime.training.feeding import Feeder
from tte_runtime.training.written import round_to, write_model

# All linear layers of the decoder, and none of the tower, whose names are partly the same.
LORA_TARGETS = r".*\blayers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
PROCESSOR_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "chat_template.jinja", "chat_template.json", "preprocessor_config.json"),
    *("video_preprocessor_config.json", "processor_config.json"),
)


def folder_of(name: str) -> Path:
    """Where a base says how it is prompted; raises CheckpointError where there is no such base."""
    return Checkpoint.of(find_folder(name)).folder


@dataclass(frozen=True, eq=False)
class Base:
    """A base model in training.

    Attributes:
        name: as it was named.
        checkpoint: where its parts lie.
        model: of transformers. Frozen until something is made trainable.
        stored: the dtype of its files, and of what is written.
        mixed: matrix products in bfloat16.
        peft: the model in peft's wrapper, where it has an adapter in training.
    """

    name: str
    checkpoint: Checkpoint
    model: Any
    stored: torch.dtype
    mixed: bool
    peft: Any = None

    @classmethod
    def load(cls, name: str, *, device: str, precision: str) -> Base:
        """Load a base: a folder, a bundled checkpoint, a LoRA adapter (merged in), or a model id of the hub.

        Args:
            name: of the base.
            device: "auto", "cpu" or "cuda".
            precision: of matrix products: "float32", "bfloat16", or "auto": bfloat16 on a GPU.

        Raises:
            CheckpointError: it is no checkpoint, a GGUF file, or has no output embedding.
            OptionError: an unknown device or precision, or a device that is not there.
        """
        if device not in ("auto", "cpu", "cuda"):
            raise OptionError(
                one_of("device", device, ("auto", "cpu", "cuda")) + " CUDA_VISIBLE_DEVICES chooses a GPU."
            )
        device = resolve_device(device)
        if precision not in ("auto", "float32", "bfloat16"):
            raise OptionError(one_of("precision", precision, ("auto", "float32", "bfloat16")))
        checkpoint = Checkpoint.of(find_folder(name))
        if is_gguf(checkpoint.model):
            raise CheckpointError(f"{name} is a GGUF file, which is not trained. Name the model it was made from.")
        config = read_config(checkpoint)
        if not config.tie_word_embeddings and "lm_head.weight" not in TensorFiles(checkpoint.model).names():
            raise CheckpointError(
                f"{checkpoint.model} was saved without its output embedding, which transformers would make up. Add "
                "lm_head.weight from the model it was made from."
            )
        stored = getattr(torch, str(config.dtype or "float32").removeprefix("torch."))
        on_gpu = device == "cuda"
        model = load_stock(checkpoint, config, torch.float32)
        # What is trained on top sees what will be written, also where an adapter was merged in.
        round_to(model, stored, keep=not on_gpu)
        model = model.to(device).requires_grad_(False).eval()
        return cls(name, checkpoint, model, stored, precision == "bfloat16" or (precision == "auto" and on_gpu))

    def renderer(self, recipe: Recipe) -> PromptRenderer:
        """What prepares its items under a recipe, as serving does."""
        return PromptRenderer(self.checkpoint.processors, recipe, self.model.config)

    def feeder(self, recipe: Recipe) -> Feeder:
        """What feeds its items under a recipe."""
        return Feeder(self.renderer(recipe), self.model.config.get_text_config().max_position_embeddings)

    def unfrozen(self, *, lora: tuple[int, int] | None, seed: int = 0) -> Base:
        """The base with its decoder trainable, in fp32: whole, or (rank, alpha) of an adapter, which begins by `seed`.

        Raises:
            OptionError: an adapter is to be trained on an adapter. MissingExtraError: peft is not installed.
        """
        if lora is None:
            self.model.get_decoder().float().requires_grad_(True)
            self.model.lm_head.float().requires_grad_(True)
            return self
        if self.checkpoint.adapted:
            raise OptionError(
                f"{self.name} is an adapter, and an adapter is trained on a whole checkpoint. Train it whole "
                "(--full), or merge it first."
            )
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise MissingExtraError("LoRA needs peft. Run: pip install 'tte-runtime[train]'") from error
        rank, alpha = lora
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            peft = get_peft_model(self.model, LoraConfig(r=rank, lora_alpha=alpha, target_modules=LORA_TARGETS))
        return replace(self, peft=peft)

    def recompute(self) -> None:
        """Compute activations again in the backward pass rather than keep them."""
        self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def save(self, folder: Path) -> None:
        """Write the checkpoint, in the base's dtype, or the adapter; without a recipe."""
        if self.peft is not None:
            self._save_adapter(folder)
            return
        write_model(folder, self.model, self.stored)
        for name in PROCESSOR_FILES:
            if (self.checkpoint.processors / name).is_file():
                shutil.copy(self.checkpoint.processors / name, folder / name)

    def _save_adapter(self, folder: Path) -> None:
        self.peft.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # peft's form of a model card, not filled in
        path = folder / ADAPTER_CONFIG
        local = Path(self.name).expanduser()
        base = str(local.resolve()) if local.is_dir() else self.name
        entry = json.loads(path.read_text(encoding="utf-8")) | {"base_model_name_or_path": base}
        path.write_text(json.dumps(entry, indent=2, sort_keys=True) + "\n", encoding="utf-8")
