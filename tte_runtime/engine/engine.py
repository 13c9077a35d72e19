"""The engine: one step is schedule, forward, sample, read out.

The state that a vector is read from is the state of a token that was *fed*: every sampled token is, so the step
that would have decoded the next token is the readout. A step is *launched* (everything is queued on the device) and
*landed* (its tokens reach the host, which decides what goes on). On a CPU one follows the other; on a GPU a step is
landed after the next one was launched, so that the device never waits for the host. Single-threaded; `loop.py` runs
it beside its callers.
"""

from __future__ import annotations

import contextlib
import itertools
import time

import torch

from tte_runtime.config import MAX_STOPS, PAGE_SIZE, EngineConfig
from tte_runtime.engine.flight import Flight
from tte_runtime.engine.forks import Family
from tte_runtime.engine.graphs import DecodeGraphs, cuda_capture
from tte_runtime.engine.kv_cache import PagePool, page_keys
from tte_runtime.engine.landing import Landing
from tte_runtime.engine.live import Live
from tte_runtime.engine.readout import End, Reader, keep_states, last_sums
from tte_runtime.engine.request import EngineRequest, Listener
from tte_runtime.engine.runner import Draws, FeatureSource, Runner
from tte_runtime.engine.scheduler import Batch, Chunk, Scheduler
from tte_runtime.engine.sequence import Sequence
from tte_runtime.engine.turns import Turns
from tte_runtime.errors import ContextError
from tte_runtime.heads.head import Head
from tte_runtime.models.decoder import Decoder
from tte_runtime.ops.transfer import HostCopy


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
        head: Head | None = None,
        salt: bytes = b"",
    ) -> None:
        self.decoder = decoder
        self.config = config
        self.head = head
        self.pool = PagePool(config.num_pages, prefix_cache=config.prefix_cache)
        self.scheduler = Scheduler(
            self.pool,
            Turns(shared=config.device.startswith("cuda")),
            max_batch_size=config.max_batch_size,
            max_prefill_tokens=config.max_prefill_tokens,
        )
        self.runner = Runner(decoder, config, features, head.tap_layer if head else None)
        self.graphs: DecodeGraphs | None = None
        with self._on_device(), torch.inference_mode():
            if config.cuda_graphs:
                self.graphs = DecodeGraphs(self.runner, config, cuda_capture())
        self._salt = salt
        self._order = itertools.count()
        self._live = Live(self.scheduler)
        reader = Reader(self.runner, head)
        self._landing = Landing(self._live, self.scheduler, reader, behind=bool(config.overlap))

    @property
    def memory(self) -> dict[str, int]:
        """Bytes that the engine keeps for itself, by what they are for."""
        return {"pages": self.runner.num_bytes, "graphs": self.graphs.num_bytes if self.graphs else 0}

    def check(self, request: EngineRequest) -> None:
        """Refuse what can never run; raises ContextError. Called at the door, before any work is spent."""
        room = min(int(self.config.max_context), (self.config.num_pages - 1) * PAGE_SIZE)
        if request.max_len > room:
            raise ContextError(
                f"the request may hold {request.max_len} tokens (prompt {len(request.prompt_ids)}, trace up to "
                f"{request.max_trace_tokens}), but there is room for {room}. Shorten the text, use fewer or smaller "
                "pictures, lower max_tokens, or raise max_context and kv_cache_tokens."
            )
        assert request.prompt_ids, "an empty prompt is refused before the engine"
        assert len(request.stop_ids) <= MAX_STOPS, "recipes with more stop tokens are refused"
        assert request.readout.kind != "head" or self.head is not None, "no head is loaded"

    def add(self, request: EngineRequest, listener: Listener) -> int:
        """Take a request in. Returns its number, for `cancel`."""
        self.check(request)
        media = [(span.start, span.length, span.key) for span in request.media]
        keys = page_keys(request.prompt_ids, media, salt=self._salt) if self.config.prefix_cache else []
        return self._live.add(Family(request, listener, next(self._order), keys))

    def cancel(self, number: int) -> None:
        """Drop a request and free what it holds; one that is done already is no error."""
        self._live.drop(number)

    @property
    def idle(self) -> bool:
        """No request is waiting or running."""
        return not self._live

    @torch.inference_mode()
    def step(self) -> bool:
        """Schedule, forward, sample, read out. Returns whether there was anything to do."""
        landing = self._landing
        with self._on_device():
            self._live.at_work = []
            batch = self.scheduler.schedule()
            busy = batch is not None or bool(landing.flights or landing.deliveries)
            behind = 1 if self.config.overlap and batch is not None else 0
            ready = len(landing.deliveries)  # read when the step before the one that lands now had landed
            if batch is not None:
                self._launch(batch)
            while len(landing.flights) > behind:
                landing.land()
            for _ in range(ready if behind else len(landing.deliveries)):
                landing.deliver()
        return busy

    def fail_step(self, error: Exception) -> None:
        """The step could not be finished: the requests it was about fail, all others go on."""
        self._live.fail_at_work(error)

    def _on_device(self) -> contextlib.AbstractContextManager[object]:
        """Kernels are launched on the current GPU, which every thread has its own idea of."""
        device = self.decoder.embed.device
        return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()

    def _launch(self, batch: Batch) -> None:
        """Queue a step on the device: the tower, the layers, the draws; and book it. Nothing waits."""
        self._live.at_work = [chunk.sequence for chunk in batch.chunks]
        began = time.perf_counter()
        batch = self._with_features(batch)
        if not batch.chunks:
            return
        started = time.perf_counter()
        draws, forks, copies = self._draws(batch, started)
        output = self._backend(batch).forward(batch, draws)
        if output.walked:
            batch = self._walk(batch, output.walked)
        tokens = None if output.tokens is None else HostCopy(output.tokens)
        flight = Flight(batch, began, started, output, HostCopy(last_sums(batch, output.hidden)), tokens)
        row = 0
        for chunk in batch.chunks:
            keep_states(chunk, output.hidden, row)
            row += len(chunk)
            chunk.sequence.advance(len(chunk))
            flight.ends.append(End(chunk.sequence, chunk.stop, row - 1))
            flight.ends += self._snapshot(chunk, row - 1, copies)
        for end in forks:  # what the readout needs of the prompt's states is theirs as well
            end.sequence.kept = list(self._live.family_of(end.sequence).first.kept)
        flight.ends += forks
        if copies:
            self.runner.copy_pages(copies)
        flight.drawn = [(sequence, sequence.expect()) for sequence, _ in draws]
        self._landing.launch(flight)

    def _backend(self, batch: Batch) -> Runner | DecodeGraphs:
        """What runs the step: a captured one, if it is large enough, or the layers one by one."""
        rows = sum(len(chunk) for chunk in batch.chunks)
        return self.graphs if self.graphs is not None and batch.decode and rows <= self.graphs.max_rows else self.runner

    def _walk(self, batch: Batch, walked: list[list[int]]) -> Batch:
        """Book the steps that were made on the way to the last one, which is returned."""
        for tokens in walked:
            for chunk, token in zip(batch.chunks, tokens, strict=True):
                sequence = chunk.sequence
                sequence.advance(1)
                index = sequence.expect()
                sequence.learn(index, token, stops=False)
                sequence.listener.on_token(index, token)
        count = len(walked)
        return Batch(batch.decode, tuple(Chunk(c.sequence, c.start + count, c.stop + count) for c in batch.chunks))

    def _with_features(self, batch: Batch) -> Batch:
        """The batch with its vision features made, less the requests of which a picture failed."""
        started = time.perf_counter()
        for chunk in batch.chunks:
            if chunk.sequence.started is None:
                chunk.sequence.started = started
        if batch.decode or not any(chunk.sequence.request.media for chunk in batch.chunks):
            return batch
        failed = self.runner.load_features(batch)
        for sequence, error in failed.items():
            self._live.fail(sequence, error)
        for chunk in batch.chunks:
            chunk.sequence.spent["vision"] += time.perf_counter() - started
        return batch.without_gone()

    def _draws(self, batch: Batch, now: float) -> tuple[Draws, list[End], list[tuple[int, int]]]:
        """Who draws a token after this step, and from which row; further traces of a prompt fork at its end.

        Returns:
            the draws, where the traces that forked stand, and pages to copy once the step has written them.
        """
        draws: Draws = []
        forks: list[End] = []
        copies: list[tuple[int, int]] = []
        row = -1
        for chunk in batch.chunks:
            row += len(chunk)
            followers = self._followers(chunk, copies)
            forks += [End(follower, chunk.stop, row) for follower in followers]
            for sequence in (chunk.sequence, *followers):
                if chunk.stop == len(sequence.ids):
                    sequence.close_if_late(now)
                if sequence.may_sample and chunk.stop == len(sequence.ids):
                    draws.append((sequence, row))
        return draws, forks, copies

    def _followers(self, chunk: Chunk, copies: list[tuple[int, int]]) -> list[Sequence]:
        """The further traces of a request whose prompt ends with this chunk; without room they queue like others."""
        family = self._live.family_of(chunk.sequence)
        if not family.waiting or chunk.stop < chunk.sequence.prompt_len:
            return []
        followers, family.waiting = family.waiting, []
        forked = []
        for follower in followers:
            pages = self.scheduler.fork(chunk.sequence, follower, chunk.stop)
            if pages is None:
                self.scheduler.add(follower)
            else:
                follower.started = chunk.sequence.started
                forked.append(follower)
                copies += pages
        return forked

    def _snapshot(self, chunk: Chunk, row: int, copies: list[tuple[int, int]]) -> list[End]:
        """A snapshot of the sequence, if one is due and there is room; where it ends if nothing is to be fed for it."""
        family = self._live.family_of(chunk.sequence)
        if not family.wants_snapshot(chunk.sequence):
            return []
        child = family.snapshot(chunk.sequence)
        pages = self.scheduler.fork(chunk.sequence, child, chunk.stop)
        if pages is None:
            child.gone = True
            return []
        copies += pages
        return [End(child, chunk.stop, row)]
