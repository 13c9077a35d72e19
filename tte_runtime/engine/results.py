"""From a sequence that is done and its vector to the engine's result: counts and timings added up."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from tte_runtime.engine.request import EngineResult
from tte_runtime.engine.sequence import Sequence
from tte_runtime.types import Counts, Timings


def result_of(sequence: Sequence, vector: NDArray[np.float32]) -> EngineResult:
    """The result of a sequence, with its vector, float32 [C], of which it takes what was asked for."""
    assert sequence.finish_reason is not None
    return EngineResult(
        vector=vector[: sequence.request.readout.dim],
        trace_ids=sequence.trace_ids,
        finish_reason=sequence.finish_reason,
        forced_by=sequence.forced_by,
        counts=_counts(sequence),
        timings=_timings(sequence),
        traces=(sequence.trace_ids,),
    )


def _counts(sequence: Sequence) -> Counts:
    request = sequence.request
    uncovered = sum(span.length for span in request.media) - sequence.vision - sequence.vision_cached
    return Counts(
        prompt=sequence.prompt_len,
        trace=sequence.trace_len,
        suffix=len(sequence.ids) - sequence.prompt_len - sequence.trace_len,
        computed=sequence.computed,
        cached=sequence.cached,
        replayed=sequence.replayed,
        snapshots=sequence.snapshot_tokens,
        head=sequence.fed if request.readout.kind == "head" else 0,
        vision=sequence.vision,
        vision_cached=sequence.vision_cached + max(0, uncovered),
    )


def _timings(sequence: Sequence) -> Timings:
    request = sequence.request
    spent = {stage: 1000 * seconds for stage, seconds in sequence.spent.items()}
    total = 1000 * (time.perf_counter() - request.arrival)
    queue = max(0.0, total - request.preprocess_ms - sum(spent.values()))
    return Timings(preprocess=request.preprocess_ms, queue=queue, total=total, **spent)
