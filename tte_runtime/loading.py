"""From a checkpoint folder to a model that is ready to run: decoder, tower, head, engine, and what prepares requests.

Knows files, options and which part goes where; knows nothing of requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tte_runtime.config import EngineConfig
from tte_runtime.engine.engine import Engine
from tte_runtime.engine.request import MediaSpan
from tte_runtime.engine.sequence import Features
from tte_runtime.errors import RecipeError
from tte_runtime.heads.head import load_head
from tte_runtime.heads.spec import HeadSpec
from tte_runtime.inputs.prompt import PromptRenderer
from tte_runtime.models.adapter import AdaptedTensors
from tte_runtime.models.checkpoint import Checkpoint, read_config, weights_digest
from tte_runtime.models.decoder import Decoder
from tte_runtime.models.features import FeatureCache
from tte_runtime.models.gguf import GgufTensors, is_gguf
from tte_runtime.models.spec import DecoderSpec, decoder_spec
from tte_runtime.models.vision import TOWERS, VisionTower
from tte_runtime.models.weights import TensorFiles, Tensors
from tte_runtime.ops import select_ops
from tte_runtime.recipes.base import Recipe
from tte_runtime.recipes.registry import choose_recipe, read_tte_json


@dataclass(frozen=True, eq=False)
class Model:
    """One loaded checkpoint under one recipe.

    Attributes:
        engine: runs requests.
        renderer: prepares them.
        vision_cache: the tower behind a cache, shared by models whose towers are equal; `None` for a checkpoint that
            reads text only.
        config: options, resolved.
        digest: hash of the checkpoint's files. thinking_digest: of those that decide a trace, all but a head's.
    """

    engine: Engine
    renderer: PromptRenderer
    vision_cache: FeatureCache | None
    config: EngineConfig
    digest: str
    thinking_digest: str

    @property
    def identity(self) -> list[Any]:
        """Everything that decides what the model makes of a request, as JSON can hold it."""
        return [self.digest, self.renderer.recipe.to_json(), self.renderer.pixel_backend, self.config.precision]

    def clear_caches(self) -> None:
        """Forget cached prefixes and picture features; to be called while nothing is in work."""
        assert self.engine.idle, "caches are cleared between requests"
        self.engine.pool.forget()
        if self.vision_cache is not None:
            self.vision_cache.clear()


def default_recipe(folder: Path, name: str) -> str | None:
    """The recipe of a model's part in a system of two, unless the checkpoint says in `tte.json` how it is prompted."""
    return None if (folder / "tte.json").is_file() else name


def load_model(
    folder: Path, config: EngineConfig, recipe: str | Recipe | None, *, beside: Model | None = None
) -> Model:
    """Load a checkpoint folder.

    Args:
        folder: a Hugging Face checkpoint, a LoRA adapter whose config names its base, or a GGUF file.
        config: options, "auto" allowed.
        recipe: a recipe, its name, or `None` for what the checkpoint says.
        beside: a loaded model that gets the same media: where processors are equal they are read once, where towers
            are, they go through one tower once.

    Raises:
        CheckpointError, UnsupportedModelError, RecipeError, OptionError: before anything large is read, where possible.
    """
    checkpoint = Checkpoint.of(folder)
    folder, model_config = checkpoint.folder, read_config(checkpoint)
    spec = decoder_spec(model_config)
    chosen = choose_recipe(folder, recipe)
    renderer = PromptRenderer(checkpoint.processors, chosen, model_config)
    head_spec = _head_spec(folder, chosen, spec)
    tap_bytes = 4 * spec.hidden_size if head_spec else 0
    config = config.resolve(
        model_context=spec.max_context,
        bytes_per_token=spec.kv_bytes_per_token() + tap_bytes,
        largest_matrix=spec.hidden_size * max(2 * spec.intermediate_size, spec.qkv_size),
    )
    place: Any = {"device": config.device, "dtype": config.torch_dtype}
    files = _tensors(checkpoint, config)
    ops = select_ops(config, head_dim=spec.head_dim, group=spec.num_heads // spec.num_kv_heads)
    decoder = Decoder.load(files, spec, ops, **place)
    if decoder.lm_head is None and chosen.stop and chosen.trace_from == "itself":
        raise RecipeError(
            f"recipe {chosen.name!r} thinks, and {checkpoint.model} was saved without its output embedding. Name a "
            "recipe that does not think, or add lm_head.weight from the base model."
        )
    cache = None
    if model_config.model_type in TOWERS:
        cache = FeatureCache(VisionTower(model_config, files, ops, **place), config.vision_cache_mb * 2**20)
    head = load_head(folder, head_spec, spec, ops, **place) if head_spec else None
    digest = weights_digest(checkpoint)
    if beside is not None:
        reader, theirs = renderer.media, beside.renderer.media
        if reader and theirs and reader.same_as(theirs):
            renderer.media = theirs
        if cache and beside.vision_cache and cache.tower.same_as(beside.vision_cache.tower):
            cache = beside.vision_cache  # the tower just loaded is let go

    def features(spans: list[MediaSpan]) -> list[Features]:
        assert cache is not None, "media are refused at the door where there is no tower"
        return [Features(states, computed) for states, computed in cache.features([s.handle for s in spans])]

    engine = Engine(decoder, config, features, head, salt=f"{digest}|{config.precision}".encode())
    head_file = _head_file(folder)
    thinking_digest = digest if head_file is None else weights_digest(checkpoint, without=head_file)
    return Model(engine, renderer, cache, config, digest, thinking_digest)


def _tensors(checkpoint: Checkpoint, config: EngineConfig) -> Tensors:
    """The checkpoint's weights, its adapter merged in."""
    model = checkpoint.model
    tensors: Tensors = GgufTensors(model, config.torch_dtype) if is_gguf(model) else TensorFiles(model)
    return AdaptedTensors(tensors, checkpoint.folder) if checkpoint.adapted else tensors


def _head_file(folder: Path) -> str | None:
    """The name of the file with a head's weights, whether a recipe reads it or not."""
    head = (read_tte_json(folder) or {}).get("head")
    return head.get("weights") if isinstance(head, dict) else None


def _head_spec(folder: Path, recipe: Recipe, backbone: DecoderSpec) -> HeadSpec | None:
    if recipe.readout != "head":
        return None
    entry = read_tte_json(folder)
    assert entry is not None, "a recipe with a head comes from the checkpoint's tte.json"
    return HeadSpec.from_json(entry["head"], backbone)
