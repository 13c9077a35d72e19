"""The engine's contract: what a request is made of and what comes back. Data only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tte_runtime.types import Counts, FinishReason, ForcedBy, Priority, Timings

ReadoutKind = Literal["last", "marker", "generated_marker", "mean", "head"]


@dataclass(frozen=True)
class Readout:
    """Which states become the vector.

    Attributes:
        kind: "last" token fed, "marker" at prompt position `position`, "generated_marker" for the last token
            `marker_id` of the trace (of what was fed last where the trace ends without one), "mean" of the prompt
            and all that was fed, or "head" over the tapped states of all tokens, read at the last.
        normalize: divide by the L2 norm of what is kept.
        dim: leading elements kept (Matryoshka, arXiv:2205.13147); `None` keeps all.
    """

    kind: ReadoutKind = "last"
    position: int | None = None
    marker_id: int | None = None
    normalize: bool = True
    dim: int | None = None

    def first_needed(self, prompt_len: int) -> int:
        """The first prompt position whose state is needed; a prefix hit must stop before it."""
        if self.kind == "mean":
            return 0
        if self.kind == "marker":
            assert self.position is not None
            return self.position
        return prompt_len - 1  # at least one token is always computed; taps are kept beside the pages


@dataclass(frozen=True)
class MediaSpan:
    """A run of placeholder tokens that stands for one picture.

    Attributes:
        start, length: the tokens, in the prompt.
        key: everything that decides the features, as bytes: pixels, grid, backend.
        handle: what the engine's `features` callable needs to make them; opaque here.
    """

    start: int
    length: int
    key: bytes
    handle: Any


@dataclass(frozen=True)
class Sampling:
    """How trace tokens are drawn; see `tte_runtime.types.Think`."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    trace_index: int = 0


@dataclass(frozen=True)
class KnownTrace:
    """A trace that is there already: its tokens are fed on the decode path as if they were sampled again.

    Attributes:
        ids: the trace, with its stop token where it has one.
        finish_reason, forced_by: how it had ended when it was written.
    """

    ids: tuple[int, ...]
    finish_reason: FinishReason = "stop"
    forced_by: ForcedBy | None = None


@dataclass(frozen=True)
class EngineRequest:
    """One request as the engine sees it.

    Attributes:
        prompt_ids: token ids, placeholders of pictures included.
        positions: int64 [3, len(prompt_ids)].
        position_delta: token i after the prompt stands at position i + delta.
        media: spans of placeholders, in order.
        max_trace_tokens: most tokens to sample; 0 embeds without a trace.
        known_trace: fed instead of sampling anything; `None` where there is none.
        num_traces: traces forked from the prompt, drawn with trace indices from `sampling.trace_index` on; their
            vectors are averaged.
        snapshot_every: read the vector as it would stand after every so many trace tokens; 0 for never. Snapshots are
            best effort: one is left out where no page is free.
        stop_cosine: end the trace once two snapshots in a row have at least this cosine; `None` for never.
        stop_ids: ids that end the trace; the one sampled is fed like any other.
        close_ids: fed first when a limit ends the trace in the stop token's stead.
        suffix_ids: always fed last.
        deadline: `time.perf_counter()` value at which the trace is closed; `None` for none.
        arrival: `time.perf_counter()` value at which the caller asked.
        preprocess_ms: what preparing the request took, for its timings.
    """

    prompt_ids: tuple[int, ...]
    positions: torch.Tensor
    position_delta: int
    media: tuple[MediaSpan, ...] = ()
    max_trace_tokens: int = 0
    known_trace: KnownTrace | None = None
    stop_ids: frozenset[int] = frozenset()
    close_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()
    sampling: Sampling = Sampling()
    num_traces: int = 1
    snapshot_every: int = 0
    stop_cosine: float | None = None
    readout: Readout = Readout()
    priority: Priority = "interactive"
    deadline: float | None = None
    arrival: float = 0.0
    preprocess_ms: float = 0.0

    @property
    def max_len(self) -> int:
        """Most tokens the request can come to hold."""
        trace_len = len(self.known_trace.ids) if self.known_trace else self.max_trace_tokens
        return len(self.prompt_ids) + trace_len + len(self.close_ids) + len(self.suffix_ids)


@dataclass(frozen=True, eq=False)
class EngineResult:
    """What the engine gives back: the vector, float32 [E] as long as was asked for, and how it came about.

    `trace_ids`, `finish_reason` and `forced_by` are those of the first trace; `traces` has all of them.
    """

    vector: NDArray[np.float32]
    trace_ids: tuple[int, ...]
    finish_reason: FinishReason
    forced_by: ForcedBy | None
    counts: Counts
    timings: Timings
    traces: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Listener:
    """Where a request's news go; called on the engine's thread, so the callables must be quick.

    Attributes:
        on_token: a token of the first trace was sampled: (index, id).
        on_snapshot: the vector as it would stand if the trace ended now: (trace tokens, float32 [E]).
        on_result: the request is done.
        on_error: the request failed; nothing else comes.
    """

    on_result: Callable[[EngineResult], None]
    on_error: Callable[[Exception], None]
    on_token: Callable[[int, int], None] = field(default=lambda index, token: None)
    on_snapshot: Callable[[int, NDArray[np.float32]], None] = field(default=lambda tokens, vector: None)
