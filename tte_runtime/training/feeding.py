"""From an item and its trace to exactly what serving feeds for it, and from several of these to one padded batch.

Prompts, positions and pixels come from the renderer that serves; the trace is put in as `flow.py` puts in one that is
given. Knows recipes and tokens; knows nothing of losses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tte_runtime.engine.request import MediaSpan
from tte_runtime.errors import DatasetError, InputError, TteError
from tte_runtime.inputs.items import Item, Picture, is_url
from tte_runtime.inputs.media import IMAGE_PAD, Shown
from tte_runtime.inputs.prompt import PromptRenderer
from tte_runtime.inputs.trace_tokens import TraceTokens
from tte_runtime.training.examples import Entry
from tte_runtime.training.pictures import PictureTokens
from tte_runtime.training.states import IGNORED, Batch
from tte_runtime.types import Think


@dataclass(frozen=True, eq=False)
class Fed:
    """Every token that is fed for one item.

    Attributes:
        ids: prompt, trace, what closes it, suffix.
        labels: as `ids` where the reasoner has to write them, IGNORED elsewhere.
        positions: int64 [3, T].
        media: what stands behind the placeholders, in order.
        place: the token whose state is read; `None` where the mean of all is.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    positions: Tensor
    media: tuple[MediaSpan, ...]
    place: int | None


class Feeder:
    """Feeds the items of one checkpoint under one recipe.

    Args:
        renderer: the checkpoint's, as serving has it.
        max_tokens: the longest sequence that the model takes.
    """

    def __init__(self, renderer: PromptRenderer, max_tokens: int) -> None:
        self.renderer = renderer
        self.recipe = renderer.recipe
        self._tokens = TraceTokens(renderer)
        self._max_tokens = max_tokens
        media = renderer.media
        self._pictures = None if media is None else PictureTokens(media.pictures.processor)

    def thinks(self, entry: Entry) -> bool:
        """Whether the entry has a trace and its role has use for one."""
        return entry.traced and self.recipe.roles[entry.role].think

    def check(self, entries: Iterable[Entry], *, to_be_written: bool = False) -> None:
        """What can be wrong with entries, before hours are spent on them: texts, traces, pictures, and their length.

        Pictures are opened and not decoded. Videos, pages of PDFs and what has to be fetched show what they are when
        their step comes.

        Args:
            entries: what will be fed.
            to_be_written: as `written` feeds it, else as `embedded`.

        Raises:
            DatasetError: an entry cannot be used; the message has its place.
        """
        for entry in entries:
            try:
                length = self._length(entry, to_be_written)
            except TteError as error:
                raise DatasetError(f"{entry.place}: {error}") from error
            self._check_length(entry, length)

    def _length(self, entry: Entry, to_be_written: bool) -> int:
        """How many tokens are fed for an entry, one only for each medium that is not looked at."""
        item, recipe, thinking = entry.parse(), self.recipe, to_be_written or self.thinks(entry)
        media = self._media_tokens(item)
        text = self.renderer.prompt_text(entry.role, item, [Shown(IMAGE_PAD, ())] * len(media))
        prompt = len(self.renderer.tokenizer.encode(text, add_special_tokens=False)) + sum(media) - len(media)
        trace = len(self._trace(item)) if thinking else 0
        if to_be_written:
            return prompt + trace + 1  # the token that stops it
        return prompt + trace + len(recipe.close if thinking else recipe.at_once) + len(recipe.suffix)

    def _media_tokens(self, item: Item) -> list[int]:
        blank = self.recipe.media.blank
        if self._pictures is None:
            if item.media:
                raise InputError("this checkpoint reads text only. Use one with a vision tower.")
            return []
        if not item.media and blank is not None:
            return [self._pictures.of_size(blank, blank)]
        return [
            self._pictures.of(str(one.source)) if isinstance(one, Picture) and not is_url(one.source) else 1
            for one in item.media
        ]

    def _check_length(self, entry: Entry, length: int) -> None:
        if length > self._max_tokens:
            raise DatasetError(
                f"{entry.place} makes {length} tokens, and the model takes {self._max_tokens}. Shorten it, or show "
                "its pictures smaller."
            )

    def _trace(self, item: Item) -> tuple[int, ...]:
        """The tokens of an item's trace, less the one that stopped it."""
        assert item.trace is not None, "asked of items that have a trace"
        given = item.trace
        return self._tokens.body(self._tokens.ids(given) if isinstance(given, str) else self._tokens.check(given))

    def embedded(self, entry: Entry) -> Fed:
        """What is fed to embed an entry, with its trace if it has one.

        Raises:
            DatasetError: the entry cannot be used; the message has its place.
        """
        return self._feed(entry, self.thinks(entry))

    def written(self, entry: Entry) -> Fed:
        """The prompt of an entry and its trace, stop token included, as the reasoner has to write it."""
        return self._feed(entry, True, to_be_written=True)

    def _feed(self, entry: Entry, thinking: bool, *, to_be_written: bool = False) -> Fed:
        try:
            item = entry.parse()
            request = self.renderer.render(
                item, entry.role, Think() if thinking else None, priority="corpus", normalize=True, arrival=0.0
            )
            trace = self._trace(item) if thinking else ()
        except TteError as error:
            raise DatasetError(f"{entry.place}: {error}") from error
        if to_be_written:
            after: tuple[int, ...] = (*trace, self._stop)
        else:
            after = (*trace, *(request.close_ids if thinking else ()), *request.suffix_ids)
        ids = (*request.prompt_ids, *after)
        self._check_length(entry, len(ids))
        prompt_len = len(request.prompt_ids)
        later = torch.arange(prompt_len, len(ids)) + request.position_delta
        return Fed(
            ids,
            (IGNORED,) * prompt_len + after,
            torch.cat([request.positions, later.expand(3, -1)], dim=1),
            request.media,
            None if self.recipe.readout == "mean" else (request.readout.position or len(ids) - 1),
        )

    @property
    def _stop(self) -> int:
        return int(self.renderer.tokenizer.convert_tokens_to_ids(self.recipe.stop[0]))


def pad(rows: Sequence[Fed]) -> Batch:
    """Rows side by side, padded on the right, without the features of their media."""
    length = max(len(row.ids) for row in rows)
    ids = torch.zeros((len(rows), length), dtype=torch.int64)
    labels = torch.full_like(ids, IGNORED)
    there = torch.zeros_like(ids)
    positions = torch.zeros((3, len(rows), length), dtype=torch.int64)
    for number, row in enumerate(rows):
        span = slice(len(row.ids))
        ids[number, span], labels[number, span] = torch.tensor(row.ids), torch.tensor(row.labels)
        positions[:, number, span] = row.positions
        there[number, span] = 1
    return Batch(ids, labels, positions, there, None)
