"""What became of a request, and the `Result` that its caller sees. Knows no way that led there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tte_runtime.engine.request import EngineResult
from tte_runtime.reasoners.base import Written
from tte_runtime.traces.trace import Trace
from tte_runtime.types import Result, TraceFrom


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a request.

    Attributes:
        embedded: the embedder's result; its timings cover the whole request.
        trace: what went into the vector, `None` without thinking.
        trace_from: where it came from.
        written: by the reasoner for this request, `None` where none was asked.
    """

    embedded: EngineResult
    trace: Trace | None = None
    trace_from: TraceFrom | None = None
    written: Written | None = None

    def to_result(self, fingerprint: str, text_of: Callable[[Sequence[int]], str]) -> Result:
        """The public result; `text_of` reads token ids of the model that thinks."""
        done, trace, written = self.embedded, self.trace, self.written
        # A model that thinks itself knows best how its trace ended; one that does not has none of its own.
        ended = trace if trace is not None and done.finish_reason == "no_trace" else done
        return Result(
            vector=done.vector,
            trace=trace.text if trace else "",
            trace_ids=done.trace_ids or (trace.ids if trace else ()),
            finish_reason=ended.finish_reason,
            forced_by=ended.forced_by,
            counts=done.counts,
            timings=done.timings,
            fingerprint=fingerprint,
            trace_from=self.trace_from,
            reasoner_counts=written.counts if written else None,
            reasoner_timings=written.timings if written else None,
            traces=tuple(map(text_of, done.traces)) if len(done.traces) > 1 else (),
        )
