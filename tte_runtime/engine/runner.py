"""From a batch of tokens to hidden states: builds the step's tensors and runs the decoder over the page pool.

Owns the pages' memory. Knows no queues, no sampling and no readouts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from tte_runtime.config import PAGE_SIZE, EngineConfig
from tte_runtime.engine.request import MediaSpan
from tte_runtime.engine.scheduler import Batch, Chunk
from tte_runtime.engine.sequence import Features, Sequence
from tte_runtime.models.decoder import Decoder, Taps
from tte_runtime.ops import StepLayout

FeatureSource = Callable[[list[MediaSpan]], list[Features]]


class Runner:
    """The decoder over its pages.

    Args:
        decoder: the backbone.
        config: resolved; gives the pool's size.
        features: makes the vision features of spans, cached or new.
        tap_layer: keep the states after this many layers beside every page; `None` keeps none.
    """

    def __init__(self, decoder: Decoder, config: EngineConfig, features: FeatureSource, tap_layer: int | None) -> None:
        self.decoder = decoder
        self._features = features
        self._device = decoder.embed.device
        self._kv_pages = decoder.new_pages(config.num_pages)
        self._taps: Taps | None = None
        if tap_layer is not None:
            width = decoder.spec.hidden_size
            self._taps = Taps(tap_layer, decoder.embed.new_zeros(config.num_pages * PAGE_SIZE, width))

    def load_features(self, batch: Batch) -> dict[Sequence, Exception]:
        """See that every picture the batch touches has its features. Returns the sequences whose pictures failed."""
        wanted = [
            (chunk.sequence, span)
            for chunk in batch.chunks
            if not batch.decode
            for span in chunk.sequence.request.media
            if _overlap(chunk, span) and span.start not in chunk.sequence.features
        ]
        if not wanted:
            return {}
        try:
            self._keep(wanted)
        except Exception:  # one bad picture must not fail its neighbours: find out whose it was
            return self._load_one_by_one(wanted)
        return {}

    def _load_one_by_one(self, wanted: list[tuple[Sequence, MediaSpan]]) -> dict[Sequence, Exception]:
        failed: dict[Sequence, Exception] = {}
        for sequence, span in wanted:
            try:
                self._keep([(sequence, span)])
            except Exception as error:
                failed[sequence] = error
        return failed

    def _keep(self, wanted: list[tuple[Sequence, MediaSpan]]) -> None:
        for (sequence, span), features in zip(wanted, self._features([span for _, span in wanted]), strict=True):
            assert features.states.shape[0] == span.length, "a span and its features differ in length"
            sequence.features[span.start] = features
            if features.computed:
                sequence.vision += span.length
            else:
                sequence.vision_cached += span.length

    def forward(self, batch: Batch) -> torch.Tensor:
        """Feed the batch. Returns the states before the final norm, [T, C], in the order of the chunks."""
        layout, positions = self._layout(batch)
        # Pages of prompts can be found again by thinking requests, so they are written in all layers; those of
        # closing and suffix tokens cannot, and a head reads only what is tapped.
        depth = None
        if self._taps is not None and batch.decode and all(c.sequence.only_tapped for c in batch.chunks):
            depth = self._taps.layer
        hidden, deepstack = self._embed(batch)
        return self.decoder.forward(hidden, positions, layout, self._kv_pages, self._taps, depth, deepstack)

    def tapped(self, sequences: list[Sequence]) -> torch.Tensor:
        """The kept states of all tokens of some sequences, one after another: [T, C]."""
        assert self._taps is not None, "nothing is tapped"
        slots = [sequence.slot(i) for sequence in sequences for i in range(sequence.fed)]
        return self._taps.pages[torch.tensor(slots, device=self._device)]

    def _embed(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The batch's input states, [T, C], and what DeepStack adds to them, [n, T, C], if anything."""
        ids = [token for c in batch.chunks for token in c.sequence.ids[c.start : c.stop]]
        hidden = F.embedding(torch.tensor(ids, device=self._device), self.decoder.embed)
        deepstack: torch.Tensor | None = None
        if batch.decode:
            return hidden, deepstack
        row = 0
        for chunk in batch.chunks:
            for span in chunk.sequence.request.media:
                first, last = max(chunk.start, span.start), min(chunk.stop, span.start + span.length)
                if first < last:
                    states = chunk.sequence.features[span.start].states[first - span.start : last - span.start]
                    rows = slice(row + first - chunk.start, row + last - chunk.start)
                    hidden[rows] = states[:, 0]
                    if states.shape[1] > 1:
                        if deepstack is None:
                            deepstack = hidden.new_zeros(states.shape[1] - 1, *hidden.shape)
                        deepstack[:, rows] = states[:, 1:].transpose(0, 1)
            row += len(chunk)
        return hidden, deepstack

    def _layout(self, batch: Batch) -> tuple[StepLayout, torch.Tensor]:
        """The step's layout and its positions, int64 [3, T]. In a decode step every token is a row of its own."""
        chunks = batch.chunks
        slots = [c.sequence.slot(i) for c in chunks for i in range(c.start, c.stop)]
        if batch.decode:
            tables = [c.sequence.pages for c in chunks for _ in range(len(c))]
            query_lens = [1] * len(slots)
            kv_lens = [i + 1 for c in chunks for i in range(c.start, c.stop)]
            flat = [c.sequence.position(i) for c in chunks for i in range(c.start, c.stop)]
            positions = torch.tensor(flat, device=self._device).expand(3, -1)
        else:
            tables = [c.sequence.pages for c in chunks]
            query_lens = [len(c) for c in chunks]
            kv_lens = [c.stop for c in chunks]
            parts = [c.sequence.request.positions[:, c.start : c.stop] for c in chunks]
            positions = torch.cat(parts, dim=1).to(self._device)
        starts = torch.tensor([0, *query_lens]).cumsum(0)
        layout = StepLayout(
            decode=batch.decode,
            slots=torch.tensor(slots, device=self._device),
            page_table=self._page_table(tables),
            cu_seqlens=starts.to(self._device, torch.int32),
            kv_lens=torch.tensor(kv_lens, dtype=torch.int32, device=self._device),
            query_lens_host=tuple(query_lens),
            kv_lens_host=tuple(kv_lens),
        )
        return layout, positions

    def _page_table(self, tables: list[list[int]]) -> torch.Tensor:
        width = max(len(table) for table in tables)
        padded = [table + [0] * (width - len(table)) for table in tables]
        return torch.tensor(padded, dtype=torch.int32, device=self._device)


def _overlap(chunk: Chunk, span: MediaSpan) -> bool:
    return chunk.start < span.start + span.length and chunk.stop > span.start
