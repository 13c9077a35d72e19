"""From a recipe's prompt, a text and patches to an `EngineRequest`. Text goes through the model's own tokenizer.

Knows recipes and tokens; knows nothing of pages, schedules or towers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from tte_runtime.engine.request import EngineRequest, MediaSpan, Readout, Sampling
from tte_runtime.errors import CheckpointError, InputError, RecipeError
from tte_runtime.inputs.items import Item
from tte_runtime.inputs.pictures import Patches, PictureReader
from tte_runtime.models.rope import mrope_positions
from tte_runtime.recipes.base import Recipe
from tte_runtime.types import Priority, Role, Think

VISION_START, IMAGE_PAD, VISION_END = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"


class PromptRenderer:
    """Renders requests of one checkpoint under one recipe.

    Args:
        folder: the checkpoint, with its tokenizer and image processor.
        recipe: prompts, stop tokens and suffix.
        image_token_id: the placeholder's id in the config.

    Raises:
        CheckpointError: the tokenizer is missing, or disagrees with the config.
        RecipeError: a token of the recipe is not one token of the tokenizer.
    """

    def __init__(self, folder: Path, recipe: Recipe, image_token_id: int) -> None:
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"the tokenizer of {folder} cannot be loaded: {error}") from error
        self.pictures = PictureReader(folder)
        self.recipe = recipe
        if self._token_id(IMAGE_PAD) != image_token_id:
            raise CheckpointError(f"config.json says image_token_id={image_token_id}, the tokenizer differs.")
        self._stop = frozenset(self._token_id(token) for token in recipe.stop)
        self._close = tuple(self._token_id(token) for token in recipe.close)
        self._suffix = tuple(self._token_id(token) for token in recipe.suffix)
        self._special = sorted(self.tokenizer.get_added_vocab())

    def _token_id(self, token: str) -> int:
        ids = self.tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1:
            raise RecipeError(f"the recipe needs {token!r} as one token, the tokenizer makes {len(ids)} of it.")
        return int(ids[0])

    def prompt_text(self, role: Role, text: str, pictures: Sequence[Patches]) -> str:
        """The prompt as a string, placeholders expanded; raises InputError for special tokens in the text."""
        for token in self._special:
            if token in text:
                raise InputError(f"the text contains the special token {token!r}. Remove it or write it differently.")
        media = "".join(VISION_START + IMAGE_PAD * picture.num_tokens + VISION_END for picture in pictures)
        # The text goes in last and is not scanned again, so braces in it mean nothing.
        before, after = self.recipe.roles[role].prompt.replace("{media}", media).split("{text}")
        return before + text + after

    def render(
        self,
        item: Item,
        role: Role,
        think: Think | None,
        *,
        priority: Priority,
        normalize: bool,
        arrival: float,
        dim: int | None = None,
    ) -> EngineRequest:
        """Everything a request needs before the engine: pictures read, prompt tokenised, positions counted.

        Args:
            item: the content.
            role: whose prompt.
            think: limits and sampling; `None` embeds without a trace.
            priority: interactive or corpus.
            normalize: L2-normalise the vector.
            arrival: `time.perf_counter()` of the caller's asking.
            dim: leading elements of the vector to keep; `None` keeps all.

        Raises:
            PictureError, InputError: the content cannot be used.
        """
        began = time.perf_counter()
        pictures = [self.pictures.read(picture) for picture in item.pictures]
        ids = self.tokenizer.encode(self.prompt_text(role, item.text, pictures), add_special_tokens=False)
        media = self._spans(ids, pictures)
        grids = [(span.start, picture.merged) for span, picture in zip(media, pictures, strict=True)]
        positions, delta = mrope_positions(len(ids), grids)
        limit, sampling, deadline = self._thinking(think)
        return EngineRequest(
            prompt_ids=tuple(ids),
            positions=positions,
            position_delta=delta,
            media=media,
            max_trace_tokens=limit,
            stop_ids=self._stop,
            close_ids=self._close,
            suffix_ids=self._suffix,
            sampling=sampling,
            readout=Readout(self.recipe.readout, normalize=normalize, dim=dim),
            priority=priority,
            deadline=None if deadline is None else arrival + deadline / 1000,
            arrival=arrival,
            preprocess_ms=1000 * (time.perf_counter() - began),
        )

    def _thinking(self, think: Think | None) -> tuple[int, Sampling, float | None]:
        if think is None:
            return 0, Sampling(), None
        limit = self.recipe.max_trace_tokens if think.max_tokens is None else think.max_tokens
        return limit, Sampling(think.temperature, think.top_k, think.top_p, think.seed), think.deadline_ms

    def _spans(self, ids: Sequence[int], pictures: Sequence[Patches]) -> tuple[MediaSpan, ...]:
        spans, at = [], 0
        placeholder = self._token_id(IMAGE_PAD)
        for picture in pictures:
            at = ids.index(placeholder, at)
            spans.append(MediaSpan(at, picture.num_tokens, picture.key, picture))
            at += picture.num_tokens
        return tuple(spans)
