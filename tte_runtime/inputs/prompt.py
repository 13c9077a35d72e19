"""From a recipe's prompt, a text and media to an `EngineRequest`. Text goes through the model's own tokenizer.

Knows recipes and tokens; knows nothing of pages, schedules or towers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AutoTokenizer

from tte_runtime.engine.request import EngineRequest, MediaSpan, Readout, Sampling
from tte_runtime.errors import CheckpointError, InputError, RecipeError
from tte_runtime.inputs.items import Item, Picture
from tte_runtime.inputs.media import IMAGE_PAD, VIDEO_PAD, MediaReader, Shown
from tte_runtime.inputs.pictures import Patches
from tte_runtime.models.gguf import pretrained
from tte_runtime.models.rope import mrope_positions
from tte_runtime.recipes.base import Recipe
from tte_runtime.types import Priority, Role, Think

SNAPSHOTS_TO_SETTLE = 4  # tokens between two looks at a vector that may end its trace


class PromptRenderer:
    """Renders requests of one checkpoint under one recipe.

    Args:
        folder: where the tokenizer and the image processor lie, or a GGUF file that holds a tokenizer.
        recipe: prompts, stop tokens and suffix.
        config: the checkpoint's transformers config, for its placeholders and the family's way with videos.

    Raises:
        CheckpointError: the tokenizer is missing, or disagrees with the config.
        RecipeError: a token of the recipe is not one token of the tokenizer.
    """

    def __init__(self, folder: Path, recipe: Recipe, config: Any) -> None:
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(**pretrained(folder))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"the tokenizer of {folder} cannot be loaded: {error}") from error
        self.recipe = recipe
        self.media: MediaReader | None = None  # a checkpoint without a tower reads text only
        self._pads: dict[str, int] = {}
        if hasattr(config, "vision_config"):
            self.media = MediaReader(folder, config, recipe.media.pixels)
            self._pads = {IMAGE_PAD: config.image_token_id, VIDEO_PAD: config.video_token_id}
        elif recipe.media.blank is not None:
            raise RecipeError(f"recipe {recipe.name!r} shows a picture always, and this checkpoint reads text only.")
        for token, number in self._pads.items():
            if self._token_id(token) != number:
                raise CheckpointError(f"config.json says that {token} is {number}, the tokenizer differs.")
        self._stop = frozenset(self._token_id(token) for token in recipe.stop)
        self._close = tuple(self._token_id(token) for token in recipe.close)
        self._suffix = tuple(self._token_id(token) for token in recipe.suffix)
        self._at_once = tuple(self._token_id(token) for token in recipe.at_once)
        self._marker = None if recipe.marker is None else self._token_id(recipe.marker)
        self._special = sorted(self.tokenizer.get_added_vocab())

    @property
    def pixel_backend(self) -> str | None:
        """What makes pixels, for fingerprints; `None` where nothing does."""
        return None if self.media is None else self.media.pictures.backend

    def _token_id(self, token: str) -> int:
        ids = self.tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1 or self.tokenizer.decode(ids) != token:  # one id may also stand for the unknown
            raise RecipeError(
                f"recipe {self.recipe.name!r} needs {token!r} as one token, the tokenizer makes {len(ids)} of it. "
                "The recipe does not fit this checkpoint: name another."
            )
        return int(ids[0])

    def prompt_text(self, role: Role, item: Item, shown: Sequence[Shown]) -> str:
        """The prompt as a string, placeholders expanded; raises InputError for special tokens in what was written."""
        for token in self._special:
            for kind, text in (("text", item.text), ("instruction", item.instruction or "")):
                if token in text:
                    raise InputError(
                        f"the {kind} contains the special token {token!r}. Remove it or write it differently."
                    )
        return self.recipe.prompt(role, [one.text for one in shown], item.instruction, item.text, blank=not item.media)

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
        """Everything a request needs before the engine: media read, prompt tokenised, positions counted.

        Args:
            item: the content.
            role: whose prompt.
            think: limits and sampling; `None` embeds without a trace.
            priority: interactive or corpus.
            normalize: L2-normalise the vector.
            arrival: `time.perf_counter()` of the caller's asking.
            dim: leading elements of the vector to keep; `None` keeps all.

        Raises:
            PictureError, VideoError, DocumentError, InputError: the content cannot be used.
        """
        began = time.perf_counter()
        shown = self._read(item)
        ids = self.tokenizer.encode(self.prompt_text(role, item, shown), add_special_tokens=False)
        ids += self._at_once if think is None else ()
        media = self._spans(ids, [patches for one in shown for patches in one.patches])
        grids = [(span.start, span.handle.merged, span.handle.interval) for span in media]
        positions, delta = mrope_positions(len(ids), grids if self.recipe.media.positions == "grid" else ())
        request = EngineRequest(
            prompt_ids=tuple(ids),
            positions=positions,
            position_delta=delta,
            media=media,
            stop_ids=self._stop,
            close_ids=self._close,
            suffix_ids=self._suffix,
            readout=self._readout(ids, normalize, dim, at_once=think is None),
            priority=priority,
            arrival=arrival,
            preprocess_ms=1000 * (time.perf_counter() - began),
        )
        return request if think is None else self._thinking(request, think)

    def _readout(self, ids: Sequence[int], normalize: bool, dim: int | None, *, at_once: bool) -> Readout:
        kind = self.recipe.readout
        if kind == "marker":
            return Readout(kind, len(ids) - 1 - ids[::-1].index(self._marker), normalize=normalize, dim=dim)
        if kind == "generated_marker" and at_once:  # the marker ends the prompt
            return Readout("last", normalize=normalize, dim=dim)
        return Readout(kind, marker_id=self._marker, normalize=normalize, dim=dim)

    def _read(self, item: Item) -> list[Shown]:
        blank = self.recipe.media.blank
        if not item.media and blank is not None:
            item = replace(item, media=(Picture(Image.new("RGB", (blank, blank), "white")),))
        if not item.media:
            return []
        if self.media is None:
            kind = type(item.media[0]).__name__.lower()
            raise InputError(
                f"this checkpoint reads text only, and the request has a {kind}. Use one with a vision tower."
            )
        return [self.media.read(medium) for medium in item.media]

    def _thinking(self, request: EngineRequest, think: Think) -> EngineRequest:
        """The request with limits, sampling and all else that `think` says."""
        every = think.snapshot_every or (SNAPSHOTS_TO_SETTLE if think.stop_cosine is not None else 0)
        return replace(
            request,
            max_trace_tokens=self.recipe.max_trace_tokens if think.max_tokens is None else think.max_tokens,
            sampling=Sampling(think.temperature, think.top_k, think.top_p, think.seed),
            num_traces=think.num_traces,
            snapshot_every=every,
            stop_cosine=think.stop_cosine,
            deadline=None if think.deadline_ms is None else request.arrival + think.deadline_ms / 1000,
        )

    def _spans(self, ids: Sequence[int], runs: Sequence[Patches]) -> tuple[MediaSpan, ...]:
        spans, at = [], 0
        for patches in runs:
            at = ids.index(self._pads[VIDEO_PAD if patches.is_video else IMAGE_PAD], at)
            spans.append(MediaSpan(at, patches.num_tokens, patches.key, patches))
            at += patches.num_tokens
        return tuple(spans)
