"""One request's way through one model or two: to its trace, which may be known already, and from there to its vector.

    trace given or stored?  yes ──▶ fed by the model that thinks itself, put into the prompt of one that does not
                            no  ──▶ written: by the embedder on the way to its vector, or by the reasoner before it

Knows who does what and in which order; knows nothing of threads' numbers, pages or files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from tte_runtime.engine.request import EngineRequest, EngineResult, KnownTrace, Listener
from tte_runtime.errors import ContextError, TraceError
from tte_runtime.outcome import Outcome
from tte_runtime.pending import Pending
from tte_runtime.reasoners.base import Ask, WriteListener, Writer, Written
from tte_runtime.reasoners.keys import local_key
from tte_runtime.streaming import Piece
from tte_runtime.traces.trace import Trace, TraceKey
from tte_runtime.types import TraceFrom

if TYPE_CHECKING:
    from tte_runtime.pipeline import Pipeline


class Flow:
    """One request on its way.

    Args:
        pipeline: the models, the store and the threads.
        ask: the request.
        thinking: it is to have a trace.
        normalize: L2-normalise the vector. dim: leading elements to keep.
        pending: settled with an `Outcome` or an error.
        on_piece: hears the trace as it is written: (index, token id or text), and snapshots: (length, vector).
    """

    def __init__(
        self,
        pipeline: Pipeline,
        ask: Ask,
        *,
        thinking: bool,
        normalize: bool,
        dim: int | None,
        pending: Pending,
        on_piece: Callable[[int, Piece], None],
    ) -> None:
        self._pipeline = pipeline
        self._ask = ask
        self._thinking = thinking
        self._normalize, self._dim = normalize, dim
        self._pending = pending
        self._on_piece = on_piece
        self._key: TraceKey | None = None
        self._trace: Trace | None = None
        self._trace_from: TraceFrom | None = None
        self._written: Written | None = None

    def start(self) -> None:
        """Prepare the request and send it off. Runs in the preparing pool; raises what is wrong with the request."""
        ask, pipeline = self._ask, self._pipeline
        request = pipeline.model.renderer.render(
            ask.item,
            ask.role,
            ask.think if self._thinking else None,
            priority=ask.priority,
            normalize=self._normalize,
            arrival=ask.arrival,
            dim=self._dim,
        )
        if not self._thinking:
            self._embed(request if pipeline.thinks_itself else _joined(request, ()))
        elif ask.item.trace is not None:
            self._use(request, self._given(ask.item.trace), "given")
        elif pipeline.writer is not None:
            self._by_reasoner(request, pipeline.writer)
        elif pipeline.thinks_itself:
            self._by_itself(request)
        else:
            raise TraceError(
                f"recipe {pipeline.recipe.name!r} embeds traces that another model writes. Load it with a reasoner, "
                'give the request a "trace", or use think=False.'
            )

    def _use(self, request: EngineRequest, trace: Trace, source: TraceFrom) -> None:
        """The trace is there: nobody has to write."""
        self._trace, self._trace_from = trace, source
        self._on_piece(0, trace.text)
        self._embed(self._with_trace(request))

    def _by_itself(self, request: EngineRequest) -> None:
        """One model thinks and embeds."""
        store, think = self._pipeline.store, self._ask.think
        # Several traces are not one to keep, and one that a settled vector has ended is the vector's as much.
        if store is not None and think.num_traces == 1 and think.stop_cosine is None:
            self._key = local_key(self._pipeline.model, request, self._ask.role, self._ask.think)
            if (stored := store.get(self._key)) and not think.snapshot_every:
                return self._use(request, stored, "stored")
        self._trace_from = "written"
        self._embed(request)

    def _by_reasoner(self, request: EngineRequest, writer: Writer) -> None:
        """Another model thinks, once it is clear that the embedder has room for what it may write."""
        draft, store = writer.prepare(self._ask), self._pipeline.store
        if store is not None:
            self._key = draft.key
            if stored := store.get(self._key):
                return self._use(request, stored, "stored")
        most = writer.limit(self._ask.think) if writer.shares_ids else 0
        self._pipeline.model.engine.check(replace(request, max_trace_tokens=most))

        def on_written(written: Written) -> None:
            self._trace, self._trace_from, self._written = written.trace, "written", written
            if store is not None or not writer.shares_ids:  # files and tokenizers have no place on the loop's thread
                self._in_pool(lambda: self._keep_and_embed(request))
            else:
                self._guarded(lambda: self._embed(self._with_trace(request)))

        listener = WriteListener(on_written, self._pending.fail, self._on_piece)
        self._pending.cancel_with(draft.write(listener))

    def _given(self, given: str | tuple[int, ...]) -> Trace:
        tokens, writer = self._pipeline.tokens, self._pipeline.writer
        if isinstance(given, str):
            return Trace(given)
        if writer is not None and not writer.shares_ids:
            raise TraceError("token ids of a trace are ambiguous: reasoner and embedder differ in theirs. Give text.")
        return Trace(tokens.text(tokens.check(given)), given)

    def _keep_and_embed(self, request: EngineRequest) -> None:
        joined = self._with_trace(request)  # a trace that cannot be used is not kept
        self._keep()
        self._embed(joined)

    def _keep(self) -> None:
        """Store the trace. One that a deadline has cut is an accident of the moment, and is not kept."""
        trace, store = self._trace, self._pipeline.store
        if store is not None and self._key is not None and trace is not None and trace.forced_by != "deadline":
            store.put(self._key, trace)

    def _with_trace(self, request: EngineRequest) -> EngineRequest:
        """The embedder's request with the trace in it."""
        trace, tokens, writer = self._trace, self._pipeline.tokens, self._pipeline.writer
        assert trace is not None
        if trace.ids and (writer is None or writer.shares_ids):
            ids = trace.ids
        else:
            ids = tokens.ids(trace.text)
        if not tokens.body(ids) and trace.finish_reason == "stop":
            raise TraceError("the trace is empty. Check the reasoner's prompt, or embed with think=False.")
        if self._pipeline.thinks_itself:
            known = KnownTrace(ids, trace.finish_reason, trace.forced_by)
            request = replace(request, num_traces=1, snapshot_every=0, stop_cosine=None)  # nothing to fork
            return replace(request, known_trace=known, max_trace_tokens=0)
        return _joined(request, (writer or tokens).body(ids), closed=True)

    def _embed(self, request: EngineRequest) -> None:
        listener = Listener(self._on_embedded, self._pending.fail, self._on_piece, self._on_piece)
        try:
            ticket = self._pipeline.loop.submit(request, listener)
        except ContextError as error:
            if self._trace is None:
                raise
            raise TraceError(f"the trace is too long for this request: {error}") from error
        self._pending.cancel_with(lambda: self._pipeline.loop.cancel(ticket))

    def _on_embedded(self, result: EngineResult) -> None:
        """On the loop's thread: the vector is there."""
        if self._trace is None and self._trace_from == "written":  # by the embedder itself
            text = self._pipeline.tokens.text(result.trace_ids)
            self._trace = Trace(text, result.trace_ids, result.finish_reason, result.forced_by)
            if self._key is not None:
                return self._in_pool(lambda: self._keep_and_settle(result))
        self._settle(result)

    def _keep_and_settle(self, result: EngineResult) -> None:
        self._keep()
        self._settle(result)

    def _settle(self, result: EngineResult) -> None:
        if self._written is not None:
            timings, spent = result.timings, self._written.timings.total
            timings = replace(timings, reasoner=spent, queue=max(0.0, timings.queue - spent))
            result = replace(result, timings=timings)
        self._pending.succeed(Outcome(result, self._trace, self._trace_from, self._written))

    def _in_pool(self, work: Callable[[], object]) -> None:
        self._guarded(lambda: self._pipeline.run(self._ask.priority, lambda: self._guarded(work)))

    def _guarded(self, work: Callable[[], object]) -> None:
        """Do some work for this request; what goes wrong is its own."""
        try:
            if not self._pending.done:
                work()
        except Exception as error:
            self._pending.fail(error)


def _joined(request: EngineRequest, trace: tuple[int, ...], *, closed: bool = False) -> EngineRequest:
    """A request whose prompt has the trace in it, and all that follows: what never samples is prompt to its end."""
    after = (*trace, *(request.close_ids if closed else ()), *request.suffix_ids)
    prompt_len = len(request.prompt_ids)
    positions = torch.arange(prompt_len, prompt_len + len(after)) + request.position_delta
    return replace(
        request,
        prompt_ids=(*request.prompt_ids, *after),
        positions=torch.cat([request.positions, positions.expand(3, -1)], dim=1),
        close_ids=(),
        suffix_ids=(),
        max_trace_tokens=0,
        deadline=None,
    )
