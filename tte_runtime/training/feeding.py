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
from tte_runtime.errors import DatasetError, TteError
from tte_runtime.inputs.items import Item
from tte_runtime.inputs.prompt import PromptRenderer
from tte_runtime.inputs.trace_tokens import TraceTokens
from tte_runtime.training.examples import Entry
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

    def thinks(self, entry: Entry) -> bool:
        """Whether the entry has a trace and its role has use for one."""
        return entry.traced and self.recipe.roles[entry.role].think

    def check(self, entries: Iterable[Entry]) -> None:
        """Everything about entries that can be wrong in words, before hours are spent on them; opens no media.

        Raises:
            DatasetError: a text or a trace cannot be used; the message has its place.
        """
        for entry in entries:
            item = entry.parse()
            try:
                self.renderer.prompt_text(entry.role, item, ())
                if self.thinks(entry):
                    self._trace(item)
            except TteError as error:
                raise DatasetError(f"{entry.place}: {error}") from error

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
        if len(ids) > self._max_tokens:
            raise DatasetError(
                f"{entry.place} makes {len(ids)} tokens, and the model takes {self._max_tokens}. Shorten it, or show "
                "its pictures smaller."
            )
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
