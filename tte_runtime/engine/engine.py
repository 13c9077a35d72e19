"""The engine: one step is schedule, forward, sample, read out.

The state that a vector is read from is the state of a token that was *fed*: every sampled token is, so the step
that would have decoded the next token is the readout. Single-threaded; `loop.py` runs it beside its callers.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence as SequenceOf

import torch

from tte_runtime.config import EngineConfig
from tte_runtime.engine.kv_cache import PagePool, page_keys
from tte_runtime.engine.request import EngineRequest, EngineResult, Listener
from tte_runtime.engine.runner import FeatureSource, Runner
from tte_runtime.engine.sampler import sample_next
from tte_runtime.engine.scheduler import Batch, Scheduler
from tte_runtime.engine.sequence import Sequence
from tte_runtime.errors import ContextError
from tte_runtime.heads.decoder_head import DecoderHead
from tte_runtime.models.decoder import Decoder
from tte_runtime.ops import Pooling
from tte_runtime.types import Counts, Timings


class Engine:
    """Prompts in, vectors out, continuously batched over one paged cache.

    Args:
        decoder: the backbone, loaded.
        config: resolved options.
        features: makes vision features of spans; runs on the engine's thread.
        head: the embedding head of readout "head", or `None`.
        salt: what decides the content of pages besides the tokens: weights, adapter, weight format.
    """

    def __init__(
        self,
        decoder: Decoder,
        config: EngineConfig,
        features: FeatureSource,
        head: DecoderHead | None = None,
        salt: bytes = b"",
    ) -> None:
        self.decoder = decoder
        self.config = config
        self.head = head
        self.pool = PagePool(config.num_pages, prefix_cache=config.prefix_cache)
        self.scheduler = Scheduler(
            self.pool,
            max_batch_size=config.max_batch_size,
            max_prefill_tokens=config.max_prefill_tokens,
        )
        self.runner = Runner(decoder, config, features, head.tap_layer if head else None)
        self._salt = salt
        self._order = itertools.count()
        self._live: dict[int, Sequence] = {}
        self._batch: Batch | None = None

    def check(self, request: EngineRequest) -> None:
        """Refuse what can never run; raises ContextError. Called at the door, before any work is spent."""
        room = min(int(self.config.max_context), (self.config.num_pages - 1) * 16)
        if request.max_len > room:
            raise ContextError(
                f"the request may hold {request.max_len} tokens (prompt {len(request.prompt_ids)}, trace up to "
                f"{request.max_trace_tokens}), but there is room for {room}. Shorten the text, use fewer or smaller "
                "pictures, lower max_tokens, or raise max_context and kv_cache_tokens."
            )
        assert request.prompt_ids, "an empty prompt is refused before the engine"
        assert request.readout.kind != "head" or self.head is not None, "no head is loaded"

    def add(self, request: EngineRequest, listener: Listener) -> int:
        """Take a request in. Returns its number, for `cancel`."""
        self.check(request)
        media = [(span.start, span.length, span.key) for span in request.media]
        keys = page_keys(request.prompt_ids, media, salt=self._salt) if self.config.prefix_cache else []
        sequence = Sequence(request, listener, next(self._order), keys)
        self._live[sequence.order] = sequence
        self.scheduler.add(sequence)
        return sequence.order

    def cancel(self, number: int) -> None:
        """Drop a request and free what it holds; one that is done already is no error."""
        sequence = self._live.pop(number, None)
        if sequence is not None:
            self.scheduler.remove(sequence)

    @property
    def idle(self) -> bool:
        """No request is waiting or running."""
        return not self._live

    @torch.inference_mode()
    def step(self) -> bool:
        """Schedule, forward, sample, read out. Returns whether there was anything to do."""
        batch = self._batch = self.scheduler.schedule()
        if batch is None:
            return False
        batch = self._batch = self._with_features(batch)
        if batch.chunks:
            started = time.perf_counter()
            hidden = self.runner.forward(batch)
            self._advance(batch, hidden, started)
            self._read_out([chunk.sequence for chunk in batch.chunks if chunk.sequence.done])
        return True

    def fail_step(self, error: Exception) -> None:
        """The step could not be finished: its requests fail, all others go on."""
        for chunk in self._batch.chunks if self._batch else ():
            self._fail(chunk.sequence, error)

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        self.cancel(sequence.order)
        sequence.listener.on_error(error)

    def _with_features(self, batch: Batch) -> Batch:
        """The batch with its vision features made, less the sequences whose pictures failed."""
        started = time.perf_counter()
        for chunk in batch.chunks:
            if chunk.sequence.started is None:
                chunk.sequence.started = started
        if batch.decode or not any(chunk.sequence.request.media for chunk in batch.chunks):
            return batch
        failed = self.runner.load_features(batch)
        for sequence, error in failed.items():
            self._fail(sequence, error)
        self._spend(batch, "vision", started)
        return batch.without(set(failed))

    def _advance(self, batch: Batch, hidden: torch.Tensor, started: float) -> None:
        """Book the fed tokens, keep the states readouts need, and sample where a trace goes on."""
        row = 0
        sampling: list[tuple[Sequence, int]] = []
        for chunk in batch.chunks:
            sequence, rows = chunk.sequence, hidden[row : row + len(chunk)]
            sequence.advance(len(chunk))
            _keep_states(sequence, chunk.start, rows)
            if not batch.decode:
                self.scheduler.publish(sequence)
            row += len(chunk)
            if sequence.fed == len(sequence.ids):
                sequence.close_if_late(time.perf_counter())
                if sequence.thinking:
                    sampling.append((sequence, row - 1))
        if sampling:
            sequences = [sequence for sequence, _ in sampling]
            drawn = sample_next(self.decoder, hidden[[last for _, last in sampling]], sequences)
            for sequence, token in zip(sequences, drawn, strict=True):
                sequence.append(token)
                sequence.listener.on_token(sequence.trace_len - 1, token)
        self._spend(batch, "decode" if batch.decode else "prefill", started)

    def _read_out(self, finished: list[Sequence]) -> None:
        """Vectors of the sequences whose last token has been fed; they leave the engine."""
        if not finished:
            return
        started = time.perf_counter()
        for kind in sorted({sequence.request.readout.kind for sequence in finished}):
            group = [sequence for sequence in finished if sequence.request.readout.kind == kind]
            vectors = self._head_vectors(group) if kind == "head" else self._pooled_vectors(group)
            host = vectors.float().cpu().numpy()
            for sequence, vector in zip(group, host, strict=True):
                sequence.spent["readout"] += time.perf_counter() - started
                self.cancel(sequence.order)
                sequence.listener.on_result(_result(sequence, vector[: sequence.request.readout.dim]))

    def _head_vectors(self, group: list[Sequence]) -> torch.Tensor:
        assert self.head is not None
        return self.head.forward(
            self.runner.tapped(group),
            torch.cat([_all_positions(sequence) for sequence in group], dim=1),
            [sequence.fed for sequence in group],
            self._pooling(group, [sequence.fed for sequence in group]),
        )

    def _pooled_vectors(self, group: list[Sequence]) -> torch.Tensor:
        states = [torch.cat(sequence.kept) for sequence in group]
        decoder, pooling = self.decoder, self._pooling(group, [len(state) for state in states])
        return decoder.ops.pool_normalize(torch.cat(states), decoder.norm, decoder.spec.norm_eps, pooling)

    def _pooling(self, group: list[Sequence], lengths: list[int]) -> Pooling:
        readouts = [sequence.request.readout for sequence in group]
        return Pooling.of(
            lengths,
            dims=[readout.dim or self.decoder.spec.hidden_size for readout in readouts],
            normalize=[readout.normalize for readout in readouts],
            device=self.decoder.embed.device,
            mean=readouts[0].kind == "mean",
        )

    def _spend(self, batch: Batch, stage: str, started: float) -> None:
        elapsed = time.perf_counter() - started
        for chunk in batch.chunks:
            chunk.sequence.spent[stage] += elapsed


def _keep_states(sequence: Sequence, start: int, rows: torch.Tensor) -> None:
    """Keep what the readout will need of the states of tokens `start` on: [t, C]."""
    readout = sequence.request.readout
    if readout.kind == "mean":
        sequence.kept.append(rows)
    elif readout.kind == "last" and sequence.fed == len(sequence.ids):  # it may turn out to be the last one
        sequence.kept = [rows[-1:]]
    elif readout.kind == "marker":
        assert readout.position is not None
        if start <= readout.position < start + len(rows):
            sequence.kept = [rows[readout.position - start][None]]


def _all_positions(sequence: Sequence) -> torch.Tensor:
    """int64 [3, fed]: of the prompt, then of everything fed after it."""
    after = torch.arange(sequence.prompt_len, sequence.fed) + sequence.request.position_delta
    return torch.cat([sequence.request.positions, after.expand(3, -1)], dim=1)


def _result(sequence: Sequence, vector: SequenceOf[float]) -> EngineResult:
    request, now = sequence.request, time.perf_counter()
    spent = {stage: 1000 * seconds for stage, seconds in sequence.spent.items()}
    total = 1000 * (now - request.arrival)
    uncovered = sum(span.length for span in request.media) - sequence.vision - sequence.vision_cached
    counts = Counts(
        prompt=sequence.prompt_len,
        trace=sequence.trace_len,
        suffix=len(sequence.ids) - sequence.prompt_len - sequence.trace_len,
        computed=sequence.computed,
        cached=sequence.cached,
        replayed=sequence.replayed,
        head=sequence.fed if request.readout.kind == "head" else 0,
        vision=sequence.vision,
        vision_cached=sequence.vision_cached + max(0, uncovered),
    )
    queue = max(0.0, total - request.preprocess_ms - sum(spent.values()))
    timings = Timings(preprocess=request.preprocess_ms, queue=queue, total=total, **spent)
    assert sequence.finish_reason is not None
    return EngineResult(
        vector=vector,  # type: ignore[arg-type]
        trace_ids=sequence.trace_ids,
        finish_reason=sequence.finish_reason,
        forced_by=sequence.forced_by,
        counts=counts,
        timings=timings,
    )
