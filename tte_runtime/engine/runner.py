"""From a batch of tokens to hidden states and next tokens: builds the step's tensors and runs the decoder over pages.

Owns the pages' memory and the device's own record of sampled tokens. Knows no queues and no readouts, and never
waits for the device.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from tte_runtime.config import PAGE_SIZE, EngineConfig
from tte_runtime.engine.request import MediaSpan
from tte_runtime.engine.sampler import draw_for, stops_of
from tte_runtime.engine.scheduler import Batch, Chunk
from tte_runtime.engine.sequence import UNKNOWN, Features, Sequence
from tte_runtime.errors import OptionError
from tte_runtime.models.decoder import Decoder
from tte_runtime.models.layers import Taps
from tte_runtime.ops import StepLayout, mark_stops
from tte_runtime.ops.transfer import to_device, upload

FeatureSource = Callable[[list[MediaSpan]], list[Features]]
Draws = list[tuple[Sequence, int]]  # who draws a token, and from the state in which row


@dataclass(frozen=True)
class StepOutput:
    """What a step computed, on the device.

    Attributes:
        hidden: [T, C], states before the final norm, in the order of the chunks. From a captured step they are the
            caller's to keep only if a request of the batch needs them for its readout.
        tokens: int64, a row a draw: the id, and 1 if it ends the trace, else 0; `None` where nothing was drawn.
        walked: on a CPU, ids that were drawn and fed on the way, before the states and tokens above: a list of one a
            draw for every further step that was made. None of them ends a trace.
        vectors: float32 [T, E], every row as its request's readout wants it, where that was part of the step.
    """

    hidden: torch.Tensor
    tokens: torch.Tensor | None
    vectors: torch.Tensor | None = None
    walked: list[list[int]] = field(default_factory=list)


class Runner:
    """The decoder over its pages.

    Args:
        decoder: the backbone.
        config: resolved; gives the pool's size.
        features: makes the vision features of spans, cached or new.
        tap_layer: keep the states after this many layers beside every page; `None` keeps none.

    Raises:
        OptionError: the pages do not fit the device's memory.
    """

    def __init__(self, decoder: Decoder, config: EngineConfig, features: FeatureSource, tap_layer: int | None) -> None:
        self.decoder = decoder
        self._features = features
        self._behind = bool(config.overlap)
        self.device = decoder.embed.device
        self.taps: Taps | None = None
        try:
            self.kv_pages = decoder.new_pages(config.num_pages)
            if tap_layer is not None:
                width = decoder.spec.hidden_size
                self.taps = Taps(tap_layer, decoder.embed.new_zeros(config.num_pages * PAGE_SIZE, width))
        except torch.OutOfMemoryError as error:
            raise OptionError(
                f"a cache of {config.kv_cache_tokens} tokens does not fit the memory of {self.device} ({error}). "
                "Lower kv_cache_tokens, or max_context where that decides it."
            ) from error
        # The latest token of every lane, for steps that are queued before the host has seen it; one lane is scratch.
        self.latest = torch.zeros(config.max_batch_size + 1, dtype=torch.int64, device=self.device)

    @property
    def num_bytes(self) -> int:
        """Bytes of all pages, taps included."""
        return self.kv_pages.nbytes + (self.taps.pages.nbytes if self.taps is not None else 0)

    def load_features(self, batch: Batch) -> dict[Sequence, Exception]:
        """See that all pictures of a prefill step have their features. Returns the sequences whose pictures failed."""
        wanted = [
            (chunk.sequence, span)
            for chunk in batch.chunks
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

    def forward(self, batch: Batch, draws: Draws) -> StepOutput:
        """Feed the batch and draw the next tokens of `draws`."""
        layout, positions = self._layout(batch)
        states, deepstack = self._embed(batch)
        if (steps := self._longest_walk(batch, draws)) > 1:
            sequences = [sequence for sequence, _ in draws]
            stops = {stop for sequence in sequences for stop in sequence.request.stop_ids}
            hidden, drawn = self.decoder.walk(states, positions, layout, self.kv_pages, self.taps, stops, steps)
            last = mark_stops(drawn[-1], stops_of(sequences, self.device))
            return StepOutput(hidden, last, walked=drawn[:-1].tolist())
        hidden = self.decoder.forward(states, positions, layout, self.kv_pages, self.taps, deepstack)
        return StepOutput(hidden, self.draw(hidden, draws) if draws else None)

    def _longest_walk(self, batch: Batch, draws: Draws) -> int:
        """How many steps may be made before the host has to look at a token, at least 1."""
        rows = len(batch.chunks)
        if not batch.decode or self._behind or [row for _, row in draws] != list(range(rows)):
            return 1
        if any(len(chunk) > 1 for chunk in batch.chunks):
            return 1
        return min(self.decoder.longest_walk(rows), *(chunk.sequence.longest_walk for chunk in batch.chunks))

    def draw(self, hidden: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Next tokens, as those of a step, from states [T, C]; their ids are also kept by lane."""
        filtered = [is_filtered(sequence) for sequence, _ in draws]
        if len(set(filtered)) == 1:
            return self._draw_alike(hidden, draws)
        # top-k and top-p take a path of their own, which the draws beside them must not notice.
        tokens = torch.empty(len(draws), 2, dtype=torch.int64, device=self.device)
        for kind in (False, True):
            chosen = [i for i, own in enumerate(filtered) if own == kind]
            drawn = self._draw_alike(hidden, [draws[i] for i in chosen])
            tokens[to_device(chosen, torch.int64, self.device)] = drawn
        return tokens

    def _draw_alike(self, hidden: torch.Tensor, draws: Draws) -> torch.Tensor:
        sequences = [sequence for sequence, _ in draws]
        rows = [row for _, row in draws]
        states = hidden if rows == list(range(len(hidden))) else hidden[to_device(rows, torch.int64, self.device)]
        tokens = self.decoder.next_tokens(states, draw_for(sequences, self.device))
        self.latest[to_device([_lane(sequence) for sequence in sequences], torch.int64, self.device)] = tokens[:, 0]
        return tokens

    def tapped(self, sequences: list[Sequence]) -> torch.Tensor:
        """The kept states of all tokens of some sequences, one after another: [T, C]."""
        assert self.taps is not None, "nothing is tapped"
        slots = [sequence.slot(i) for sequence in sequences for i in range(sequence.fed)]
        return self.taps.pages[to_device(slots, torch.int64, self.device)]

    def copy_pages(self, pairs: list[tuple[int, int]]) -> None:
        """Copy whole pages, all layers and taps, (from, to) each."""
        source, target = (to_device(list(pages), torch.int64, self.device) for pages in zip(*pairs, strict=True))
        self.kv_pages[:, :, target] = self.kv_pages[:, :, source]
        if self.taps is not None:
            pages = self.taps.pages.unflatten(0, (-1, PAGE_SIZE))
            pages[target] = pages[source]

    def _embed(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The batch's input states, [T, C], and what DeepStack adds to them, [n, T, C], if anything."""
        known = [token for c in batch.chunks for token in c.sequence.ids[c.start : c.stop]]
        ids = to_device(known, torch.int64, self.device)
        if UNKNOWN in known:
            lanes = [_lane(c.sequence) if c.sequence.num_unknown else 0 for c in batch.chunks for _ in range(len(c))]
            ids = torch.where(ids < 0, self.latest[to_device(lanes, torch.int64, self.device)], ids)
        hidden = F.embedding(ids, self.decoder.embed)
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
        chunks, device = batch.chunks, self.device
        slots = [c.sequence.slot(i) for c in chunks for i in range(c.start, c.stop)]
        if batch.decode:
            tables = [c.sequence.pages for c in chunks for _ in range(len(c))]
            query_lens = [1] * len(slots)
            kv_lens = [i + 1 for c in chunks for i in range(c.start, c.stop)]
            flat = [c.sequence.position(i) for c in chunks for i in range(c.start, c.stop)]
            positions = to_device(flat, torch.int64, device).expand(3, -1)
        else:
            tables = [c.sequence.pages for c in chunks]
            query_lens = [len(c) for c in chunks]
            kv_lens = [c.stop for c in chunks]
            parts = [c.sequence.request.positions[:, c.start : c.stop] for c in chunks]
            positions = upload(torch.cat(parts, dim=1), device)
        layout = StepLayout(
            decode=batch.decode,
            slots=to_device(slots, torch.int64, device),
            page_table=self._page_table(tables),
            cu_seqlens=to_device([0, *itertools.accumulate(query_lens)], torch.int32, device),
            kv_lens=to_device(kv_lens, torch.int32, device),
            query_lens_host=tuple(query_lens),
            kv_lens_host=tuple(kv_lens),
        )
        return layout, positions

    def _page_table(self, tables: list[list[int]]) -> torch.Tensor:
        width = max(len(table) for table in tables)
        padded = [table + [0] * (width - len(table)) for table in tables]
        return upload(torch.tensor(padded, dtype=torch.int32), self.device)


def is_filtered(sequence: Sequence) -> bool:
    """The sequence draws among the likeliest tokens only."""
    sampling = sequence.request.sampling
    return sampling.top_k > 0 or sampling.top_p < 1


def _lane(sequence: Sequence) -> int:
    assert sequence.lane is not None, "only what runs draws tokens"
    return sequence.lane


def _overlap(chunk: Chunk, span: MediaSpan) -> bool:
    return chunk.start < span.start + span.length and chunk.stop > span.start
