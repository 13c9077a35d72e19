"""The sequences of one request: its traces, which fork from one prompt, and snapshots of a trace under way.

A fork shares its parent's full pages and gets a copy of the last one. Knows sequences and what becomes of their
results; the pages are the scheduler's and the copying is the runner's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tte_runtime.engine.request import EngineRequest, EngineResult, Listener
from tte_runtime.engine.sequence import Sequence
from tte_runtime.types import Timings


class Family:
    """Everything that runs for one request, and the one answer that comes of it.

    Args:
        request: what was asked for.
        listener: where its news go.
        order: its arrival number, shared by all its sequences.
        page_keys: content keys of the prompt's full pages.
    """

    def __init__(self, request: EngineRequest, listener: Listener, order: int, page_keys: list[bytes]) -> None:
        self.listener = listener
        self._results: dict[int, EngineResult] = {}
        self._normalize = request.readout.normalize
        self._latest: NDArray[np.float32] | None = None
        count = request.num_traces if request.max_trace_tokens and request.known_trace is None else 1
        if count > 1:  # the mean is taken of unit vectors
            request = replace(request, readout=replace(request.readout, normalize=True))
        self.traces = [Sequence(_with_trace_index(request, i), self._listen(i), order, page_keys) for i in range(count)]
        self.waiting = self.traces[1:]  # for the first one's prompt
        for trace in self.waiting:
            trace.high_water = trace.prompt_len  # the prompt counts once
        self.snapshots: list[Sequence] = []

    @property
    def first(self) -> Sequence:
        """The trace that runs the prompt and is streamed."""
        return self.traces[0]

    def __iter__(self) -> Iterator[Sequence]:
        yield from self.traces
        yield from self.snapshots

    def _listen(self, index: int) -> Listener:
        on_token = self.listener.on_token if index == 0 else lambda index, token: None
        return Listener(partial(self._collect, index), self.listener.on_error, on_token)

    def _collect(self, index: int, result: EngineResult) -> None:
        self._results[index] = result
        if len(self._results) == len(self.traces):
            results = [self._results[i] for i in range(len(self.traces))]
            self.listener.on_result(results[0] if len(results) == 1 else _average(results, self._normalize))

    def wants_snapshot(self, sequence: Sequence) -> bool:
        """The first trace has just been fed a number of tokens after which a snapshot is due."""
        every, length = sequence.request.snapshot_every, sequence.fed - sequence.prompt_len
        due = every > 0 and length > 0 and length % every == 0
        return due and sequence is self.first and sequence.may_sample and sequence.fed == len(sequence.ids)

    def snapshot(self, parent: Sequence) -> Sequence:
        """A sequence that ends where `parent` stands, as a limit would end it; its result is shown, not returned."""
        request, length = parent.request, parent.fed - parent.prompt_len
        marked = request.readout.kind == "generated_marker" and request.readout.marker_id in parent.trace_ids
        after = (() if marked else request.close_ids) + request.suffix_ids
        parent.snapshot_tokens += len(after)
        child = Sequence(
            replace(request, max_trace_tokens=0, snapshot_every=0),
            Listener(lambda result: self._show(parent, length, result.vector), lambda error: None),
            parent.order,
            [],
            dispensable=True,
        )
        child.ids = parent.ids[: parent.fed] + list(after)
        child.kept = list(parent.kept)
        self.snapshots = [other for other in self.snapshots if not other.gone] + [child]
        return child

    def _show(self, parent: Sequence, length: int, vector: NDArray[np.float32]) -> None:
        if parent.gone or not (parent.thinking or length < parent.trace_len):
            return  # it has turned out that the trace ended right there
        self.listener.on_snapshot(length, vector)
        before, self._latest = self._latest, vector
        least = parent.request.stop_cosine
        if least is not None and before is not None and _cosine(before, vector) >= least:
            parent.close("settled")


def _with_trace_index(request: EngineRequest, index: int) -> EngineRequest:
    if index == 0:
        return request
    sampling = replace(request.sampling, trace_index=request.sampling.trace_index + index)
    return replace(request, sampling=sampling, snapshot_every=0)


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


def _average(results: list[EngineResult], normalize: bool) -> EngineResult:
    """One result of several traces: the mean of their unit vectors; the prompt is counted once."""
    mean = np.mean([result.vector for result in results], axis=0)
    if normalize:
        mean /= max(float(np.linalg.norm(mean)), 1e-12)
    first = results[0]
    summed = {
        name: sum(getattr(result.counts, name) for result in results)
        for name in ("trace", "suffix", "computed", "cached", "replayed", "head")
    }
    stages = [field.name for field in fields(Timings) if field.name != "queue"]
    longest = {name: max(getattr(result.timings, name) for result in results) for name in stages}
    queue = max(0.0, 2 * longest["total"] - sum(longest.values()))
    return replace(
        first,
        vector=mean,
        traces=tuple(result.trace_ids for result in results),
        counts=replace(first.counts, **summed),
        timings=Timings(queue=queue, **longest),
    )
