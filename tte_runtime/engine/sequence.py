"""One request in work: its tokens, its pages, and how far it has come. Bookkeeping only; no tensors are computed here.

`ids` holds every token that is decided, fed or not: the prompt, then the trace as it is sampled, then closing and
suffix tokens. `fed` counts those whose keys and values lie in pages. Prompt tokens take the prefill path and all
others the decode path, however they are batched: a token's path follows its role.

Where the host runs a step behind the device, a sampled token is UNKNOWN at first: it is fed from the device's own
memory, and `learn` tells its id, and whether the trace ended with it, a step later.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tte_runtime.config import PAGE_SIZE
from tte_runtime.engine.request import EngineRequest, KnownTrace, Listener
from tte_runtime.types import FinishReason, ForcedBy

UNKNOWN = -1  # a token that was sampled on the device and has not reached the host


@dataclass(frozen=True)
class Features:
    """Vision features of one span, and whether the tower had to run for them.

    Attributes:
        states: [length, 1 + n, C]: what stands for the tokens' embeddings, and what DeepStack adds after each of the
            first n layers.
    """

    states: torch.Tensor
    computed: bool


class Sequence:
    """State of one trace of a request between steps.

    Args:
        request: what was asked for.
        listener: where its news go.
        order: arrival number; earlier requests go first within a priority.
        page_keys: content keys of the prompt's full pages.
        dispensable: nothing is lost if it goes: it is dropped where others would be preempted.
    """

    def __init__(
        self,
        request: EngineRequest,
        listener: Listener,
        order: int,
        page_keys: list[bytes],
        *,
        dispensable: bool = False,
    ) -> None:
        self.request = request
        self.listener = listener
        self.order = order
        self.page_keys = page_keys
        self.dispensable = dispensable
        self.prompt_len = len(request.prompt_ids)
        self.ids = list(request.prompt_ids)
        self.trace_len = 0
        self.num_unknown = 0
        self.fed = 0
        self.high_water = 0  # most tokens ever fed or found; what lies below is a replay
        self.pages: list[int] = []
        self.lane: int | None = None  # where the device keeps its latest token; held while running
        self.features: dict[int, Features] = {}  # by span start, until the prompt is done
        self.kept: list[torch.Tensor] = []  # states the readout needs, before the final norm
        self.finish_reason: FinishReason | None = None
        self.forced_by: ForcedBy | None = None
        self.gone = False  # cancelled, failed or answered: nobody listens any more
        self._closing: ForcedBy | None = None
        self.computed = self.cached = self.replayed = self.snapshot_tokens = 0
        self.vision = self.vision_cached = 0
        self.started: float | None = None
        self.spent = {"vision": 0.0, "prefill": 0.0, "decode": 0.0, "readout": 0.0}
        if request.known_trace is not None:
            self._know(request.known_trace)
        elif request.max_trace_tokens == 0:
            self._finish("no_trace", None)

    @property
    def rank(self) -> tuple[bool, int, bool]:
        """Sort key of the scheduler: interactive before corpus, earlier before later, snapshots last."""
        return (self.is_corpus, self.order, self.dispensable)

    @property
    def is_corpus(self) -> bool:
        """Part of a job that nobody waits for, token by token."""
        return self.request.priority == "corpus"

    @property
    def in_prefill(self) -> bool:
        """The prompt is not fed to its end yet."""
        return self.fed < self.prompt_len

    @property
    def thinking(self) -> bool:
        """The trace has not ended, as far as the host knows."""
        return self.finish_reason is None

    @property
    def may_sample(self) -> bool:
        """One more token may be drawn once all decided ones are fed."""
        return self.thinking and self._closing is None and self.trace_len < self.request.max_trace_tokens

    @property
    def done(self) -> bool:
        """Every token there will be is fed: the vector can be read."""
        return not self.thinking and self.fed == len(self.ids)

    @property
    def needs_states(self) -> bool:
        """States of a decode step are needed beyond what it reads out and taps by itself."""
        return self.request.readout.kind not in ("last", "head")

    @property
    def longest_walk(self) -> int:
        """Tokens that may be drawn one after another before anybody has to look, in the pages that there are."""
        request, sampling = self.request, self.request.sampling
        watched = request.deadline is not None or request.snapshot_every > 0 or self.needs_states
        if watched or sampling.temperature > 0 or self.num_unknown or not self.may_sample:
            return 1
        return min(request.max_trace_tokens - self.trace_len, len(self.pages) * PAGE_SIZE - self.fed)

    @property
    def trace_ids(self) -> tuple[int, ...]:
        """The sampled tokens."""
        return tuple(self.ids[self.prompt_len : self.prompt_len + self.trace_len])

    @property
    def num_pages_needed(self) -> int:
        """Pages that hold all decided tokens."""
        return -(-len(self.ids) // PAGE_SIZE)

    def position(self, index: int) -> int:
        """Position of token `index` after the prompt, the same on all three axes."""
        return index + self.request.position_delta

    def slot(self, index: int) -> int:
        """Where token `index` lies in the pool: page * 16 + offset."""
        return self.pages[index // PAGE_SIZE] * PAGE_SIZE + index % PAGE_SIZE

    def resume_from(self, num_tokens: int) -> None:
        """Start with the first `num_tokens` found in the cache."""
        self.fed = num_tokens
        self.cached += max(0, num_tokens - self.high_water)
        self.high_water = max(self.high_water, num_tokens)

    def advance(self, count: int) -> None:
        """`count` more tokens have been fed."""
        self.computed += count
        self.replayed += max(0, min(self.fed + count, self.high_water) - self.fed)
        self.fed += count
        self.high_water = max(self.high_water, self.fed)
        if not self.in_prefill:
            self.features.clear()

    def restart(self) -> list[int]:
        """Go back to the start after a preemption; known tokens stay known. Returns the pages to release."""
        pages, self.pages = self.pages, []
        self.fed = 0
        self.kept.clear()
        return pages

    def expect(self) -> int:
        """A token is being drawn. Returns its index in the trace, for `learn`."""
        assert self.may_sample and self.fed == len(self.ids), "tokens are drawn after all decided ones are fed"
        self.ids.append(UNKNOWN)
        self.trace_len += 1
        self.num_unknown += 1
        return self.trace_len - 1

    def learn(self, index: int, token: int, *, stops: bool) -> bool:
        """Trace token `index` has come, and whether it ends the trace. False, and dropped, if that had ended before."""
        if not self.thinking or index >= self.trace_len:
            return False
        self.ids[self.prompt_len + index] = token
        self.num_unknown -= 1
        if stops:
            del self.ids[self.prompt_len + index + 1 :]  # drawn since, for nothing
            self.trace_len, self.num_unknown = index + 1, 0
            assert self.fed <= len(self.ids), "the host may run one step behind, not more"
            self._finish("stop", None)
        else:
            self._close_if_known()
        return True

    def close_if_late(self, now: float) -> None:
        """Close the trace where its deadline has come."""
        if self.request.deadline is not None and now >= self.request.deadline:
            self.close("deadline")

    def close(self, reason: ForcedBy) -> None:
        """End the trace as soon as every token that was drawn is known."""
        if self.thinking:
            self._closing = self._closing or reason
            self._close_if_known()

    def _close_if_known(self) -> None:
        if self.num_unknown == 0:
            if self.trace_len >= self.request.max_trace_tokens:
                self._finish("forced", "max_tokens")
            elif self._closing is not None:
                self._finish("forced", self._closing)

    def _know(self, trace: KnownTrace) -> None:
        """Take over a trace that was written before; one that lacks its stop token is closed like any other."""
        self.ids.extend(trace.ids)
        self.trace_len = len(trace.ids)
        self._finish(trace.finish_reason, trace.forced_by)

    def _finish(self, reason: FinishReason, forced_by: ForcedBy | None) -> None:
        readout = self.request.readout
        if readout.kind == "generated_marker":
            ended = readout.marker_id in self.trace_ids
            if reason == "stop" and not ended:
                reason, forced_by = "forced", "no_marker"
        else:
            ended = self.trace_len > 0 and self.ids[-1] in self.request.stop_ids
        self.finish_reason, self.forced_by = reason, forced_by
        if reason != "no_trace" and not ended:
            self.ids.extend(self.request.close_ids)
        self.ids.extend(self.request.suffix_ids)
