"""The nouns everything shares: what a request may ask for and what comes back. No behaviour, no torch.

Dimensions here and everywhere: T tokens, S sequences, H heads, K kv heads, D head dim, C model dim, E embedding dim.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tte_runtime.errors import OptionError, one_of

Role = Literal["query", "document"]
Priority = Literal["interactive", "corpus"]
FinishReason = Literal["stop", "forced", "no_trace"]
TraceFrom = Literal["written", "stored", "given"]
ForcedBy = Literal["max_tokens", "deadline", "no_marker", "settled"]

ROLES: tuple[str, ...] = ("query", "document")
PRIORITIES: tuple[str, ...] = ("interactive", "corpus")


@dataclass(frozen=True)
class Think:
    """How a trace may be written.

    Attributes:
        max_tokens: most tokens of trace; `None` takes the recipe's own limit, 0 embeds without thinking.
        deadline_ms: milliseconds after the request's arrival at which the trace is closed by the forced
            suffix; the vector is then read as usual and marked `finish_reason="forced"`. `None` for no deadline.
        temperature: 0 is greedy (ties go to the lowest token id).
        top_k: draw from the k likeliest tokens only; 0 for all.
        top_p: draw from the smallest set of tokens whose probability reaches p; 1 for all.
        seed: random numbers are a pure function of (seed, trace index, position, token id), so the same
            request draws the same trace whatever else is in the batch.
        num_traces: traces drawn from one prompt, whose vectors are averaged and normalised (O1-Embedder,
            arXiv 2502.07555); needs a temperature.
        snapshot_every: read the vector as it would stand after every so many tokens; 0 for never, but every 4 tokens
            with `stop_cosine`. `Embedder.stream` yields them.
        stop_cosine: end the trace once two snapshots in a row have at least this cosine; `None` for never.

    Raises:
        OptionError: a value is out of its range, or options contradict each other.
    """

    max_tokens: int | None = None
    deadline_ms: float | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    num_traces: int = 1
    snapshot_every: int = 0
    stop_cosine: float | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 0:
            raise OptionError(f"max_tokens must be >= 0, got {self.max_tokens}. Use 0 to embed without thinking.")
        if self.deadline_ms is not None and not self.deadline_ms >= 0:
            raise OptionError(f"deadline_ms must be >= 0, got {self.deadline_ms}. Use None for no deadline.")
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise OptionError(f"temperature must be finite and >= 0, got {self.temperature}. Use 0 for greedy.")
        if self.top_k < 0:
            raise OptionError(f"top_k must be >= 0, got {self.top_k}. Use 0 to draw from all tokens.")
        if not 0 < self.top_p <= 1:
            raise OptionError(f"top_p must be in (0, 1], got {self.top_p}. Use 1 to draw from all tokens.")
        self._check_traces()

    def _check_traces(self) -> None:
        if self.num_traces < 1:
            raise OptionError(f"num_traces must be >= 1, got {self.num_traces}. Use max_tokens=0 for no trace.")
        if self.num_traces > 1 and self.temperature == 0:
            raise OptionError(f"num_traces={self.num_traces} needs temperature > 0: greedy traces are all the same.")
        if self.snapshot_every < 0:
            raise OptionError(f"snapshot_every must be >= 0, got {self.snapshot_every}. Use 0 for no snapshots.")
        if self.stop_cosine is not None and not 0 < self.stop_cosine <= 1:
            raise OptionError(f"stop_cosine must be in (0, 1], got {self.stop_cosine}. Use None to let traces end.")
        if self.num_traces > 1 and (self.snapshot_every or self.stop_cosine is not None):
            raise OptionError("snapshots are taken of a single trace; use num_traces=1 with them.")


@dataclass(frozen=True)
class Counts:
    """Tokens of one request; `computed` proves that nothing was encoded twice.

    Attributes:
        prompt: tokens of the prompt, placeholders of pictures included.
        trace: sampled tokens, the stop token included.
        suffix: forced tokens fed after the trace.
        computed: tokens that went through the decoder for this request.
        cached: prompt tokens whose keys and values came from the prefix cache.
        replayed: tokens computed again because the request had been preempted (a part of `computed`).
        snapshots: forced tokens fed for snapshots only (no part of `computed`).
        head: states that the embedding head read (0 without a head).
        vision: merged picture tokens that the vision tower computed for this request.
        vision_cached: merged picture tokens that came from the vision cache or the prefix cache.
    """

    prompt: int = 0
    trace: int = 0
    suffix: int = 0
    computed: int = 0
    cached: int = 0
    replayed: int = 0
    snapshots: int = 0
    head: int = 0
    vision: int = 0
    vision_cached: int = 0


@dataclass(frozen=True)
class Timings:
    """Milliseconds of one request's life. A step shared with other requests counts in full for each of them.

    Attributes:
        preprocess: decoding and resizing pictures, rendering and tokenising the prompt.
        queue: waiting, between preprocessing and the first step, and between steps for others.
        vision: the vision tower.
        prefill: steps over the prompt (without the tower).
        decode: steps over trace and suffix.
        readout: pooling or the embedding head, and the copy to the host.
        reasoner: the trace's stay in another model; `Result.reasoner_timings` has its stages.
        total: from arrival to the finished vector.
    """

    preprocess: float = 0.0
    queue: float = 0.0
    vision: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    readout: float = 0.0
    reasoner: float = 0.0
    total: float = 0.0


@dataclass(frozen=True, eq=False)
class Result:
    """One embedded request.

    Attributes:
        vector: float32 [E], L2-normalised unless asked otherwise.
        trace: the trace as text, without special tokens.
        trace_ids: its token ids in the tokenizer of the model that wrote it, the stop token included; empty where they
            are not known: from an endpoint, or given as text.
        finish_reason: "stop" (the trace was ended by its writer), "forced" (a limit closed it, see `forced_by`),
            or "no_trace" (no thinking was asked for).
        forced_by: what forced an end: "max_tokens", "deadline", "settled" (see `Think.stop_cosine`), or "no_marker"
            (the trace ended without the marker that its recipe reads).
        counts: tokens computed, cached and replayed; where a reasoner writes, its trace counts as prompt here.
        timings: milliseconds a stage.
        fingerprint: identifies everything that decides the vector: weights, recipe, processor, precision.
            Vectors of different fingerprints must not meet in one index.
        trace_from: "written" for this request, "stored" by an earlier one, or "given" with it; `None` without a trace.
        reasoner_counts, reasoner_timings: what the reasoner did for this request; `None` where it was not asked. An
            endpoint's counts are those it reports, its prefill is the time to its first piece.
        traces: all traces as text, where `Think.num_traces` asked for several; `trace` is the first of them.
    """

    vector: NDArray[np.float32]
    trace: str
    trace_ids: tuple[int, ...]
    finish_reason: FinishReason
    forced_by: ForcedBy | None
    counts: Counts
    timings: Timings
    fingerprint: str
    trace_from: TraceFrom | None = None
    reasoner_counts: Counts | None = None
    reasoner_timings: Timings | None = None
    traces: tuple[str, ...] = ()


@dataclass(frozen=True)
class TraceToken:
    """One token of a trace as it is written, or a longer piece that came as text.

    Attributes:
        index: position within the trace, from 0.
        id: token id; `None` where the text came whole: from an endpoint, stored, or given.
        text: the text this token adds ("" while a multi-byte character is incomplete, and for special tokens).
    """

    index: int
    id: int | None
    text: str


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The vector as it would stand if the trace ended here.

    Attributes:
        num_tokens: trace tokens it has seen.
        vector: float32 [E], finished like a result's.
    """

    num_tokens: int
    vector: NDArray[np.float32]


def check_role(role: object) -> Role:
    """`role` if it is one; raises OptionError otherwise."""
    if role not in ROLES:
        raise OptionError(one_of("role", role, ROLES))
    return role  # type: ignore[return-value]


def check_priority(priority: object) -> Priority:
    """`priority` if it is one; raises OptionError otherwise."""
    if priority not in PRIORITIES:
        raise OptionError(one_of("priority", priority, PRIORITIES))
    return priority  # type: ignore[return-value]
