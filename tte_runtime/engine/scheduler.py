"""Which tokens the next step feeds: continuous batching over a page pool, two priorities, preemption by replay.

A step is prefill (chunks of prompts) *or* decode (rows of one token), never both, and of those who wait *or* of the
corpus job. Requests join and leave between steps. Knows pages and counts; knows no tensors and no model.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

from tte_runtime.config import DECODE_ROWS, PAGE_SIZE
from tte_runtime.engine.kv_cache import OutOfPages, PagePool
from tte_runtime.engine.sequence import Sequence
from tte_runtime.engine.turns import CORPUS_PART, Turns


@dataclass(frozen=True)
class Chunk:
    """Tokens `start` to `stop` of one sequence."""

    sequence: Sequence
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Batch:
    """The tokens of one step, all on the prefill path or all on the decode path."""

    decode: bool
    chunks: tuple[Chunk, ...]

    @property
    def is_corpus(self) -> bool:
        """Nobody waits for any of it."""
        return all(chunk.sequence.is_corpus for chunk in self.chunks)

    def without_gone(self) -> Batch:
        """The batch less the sequences of which nothing is to come any more: their pages are others' by now."""
        return Batch(self.decode, tuple(chunk for chunk in self.chunks if not chunk.sequence.gone))


class Scheduler:
    """Waiting and running sequences, and the pages between them.

    Args:
        pool: the pages.
        max_batch_size: most sequences running at once, snapshots apart.
        max_prefill_tokens: most tokens of a prefill step.
        turns: whether those who wait go next or the corpus job.
    """

    def __init__(self, pool: PagePool, turns: Turns, *, max_batch_size: int, max_prefill_tokens: int) -> None:
        self.pool = pool
        self.turns = turns
        self.max_batch_size = max_batch_size
        self.max_prefill_tokens = max_prefill_tokens
        self.waiting: list[Sequence] = []  # by rank
        self.running: list[Sequence] = []  # by rank
        self.num_preempted = 0
        self._lanes = list(range(max_batch_size - 1, -1, -1))

    def add(self, sequence: Sequence) -> None:
        """Put a sequence in the queue."""
        bisect.insort(self.waiting, sequence, key=lambda s: s.rank)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, finished or not, and give its pages back."""
        for queue in (self.waiting, self.running):
            if sequence in queue:
                queue.remove(sequence)
        pages, sequence.pages = sequence.pages, []
        self._release(pages)
        self._leave_lane(sequence)

    def fork(self, parent: Sequence, child: Sequence, fed: int) -> list[tuple[int, int]] | None:
        """Let `child` run on after `parent`'s first `fed` tokens, over the same full pages and a copy of the last one.

        Returns:
            the page to copy and where to, if there is one; `None`, and nothing is done, where room is lacking.
        """
        num_shared = fed // PAGE_SIZE
        if not child.dispensable and not self._lanes:
            return None
        try:
            fresh = self.pool.allocate(max(child.num_pages_needed - num_shared, 0))
        except OutOfPages:
            return None
        self.pool.hold(parent.pages[:num_shared])
        child.pages = parent.pages[:num_shared] + fresh
        child.fed = fed
        child.high_water = max(child.high_water, fed)
        self._run(child)
        return [(parent.pages[num_shared], fresh[0])] if fed % PAGE_SIZE else []

    def schedule(self) -> Batch | None:
        """The next step, or `None` where there is nothing to feed now."""
        for _ in range(2):  # growing for decode can preempt all that decodes; what can be admitted then goes on
            self._admit()
            for corpus in self.turns.order(self.running):
                if (batch := self._step_of(corpus)) is not None:
                    self.turns.begin(batch.is_corpus)
                    return batch
        return None

    def _step_of(self, corpus: bool) -> Batch | None:
        """The next step of the corpus job, or of those who wait: prompts before tokens."""
        theirs = [s for s in self.running if s.is_corpus == corpus]
        prefilling = [s for s in theirs if s.in_prefill]
        if prefilling:
            small = corpus and not all(s.is_corpus for s in self.running)  # somebody waits until it has ended
            budget = max(self.max_prefill_tokens // CORPUS_PART, 1) if small else self.max_prefill_tokens
            return Batch(decode=False, chunks=tuple(_prefill_chunks(prefilling, budget)))
        rows = self._decode_rows(self.running[:] if self.turns.shared else theirs)
        return Batch(decode=True, chunks=tuple(rows)) if rows else None

    def publish(self, sequence: Sequence, stop: int) -> None:
        """Make the full pages of the first `stop` tokens findable, as far as they are prompt and still held."""
        complete = min(stop, sequence.fed, sequence.prompt_len) // PAGE_SIZE
        for page, key in zip(sequence.pages[:complete], sequence.page_keys, strict=False):
            self.pool.publish(page, key)

    def _decode_rows(self, sequences: list[Sequence]) -> list[Chunk]:
        # In order of rank: growing can only preempt sequences further down this list, which then do not grow.
        ready = [s for s in sequences if not s.in_prefill and s.fed < len(s.ids) and self._grow(s)]
        spare = max(0, max(self.max_batch_size, DECODE_ROWS) - len(ready))  # snapshots may be more: they take no lane
        rows = []
        for sequence in ready:
            extra = min(len(sequence.ids) - sequence.fed - 1, spare)  # a suffix, or a trace replayed
            spare -= extra
            rows.append(Chunk(sequence, sequence.fed, sequence.fed + 1 + extra))
        return rows

    def _admit(self) -> None:
        while self.waiting:
            sequence = self.waiting[0]
            while not self._lanes:
                if not self._preempt_after(sequence):
                    return
            if not self._claim(sequence):
                return
            self.waiting.remove(sequence)  # preempting may have put another first
            self._run(sequence)

    def _run(self, sequence: Sequence) -> None:
        bisect.insort(self.running, sequence, key=lambda s: s.rank)
        if not sequence.dispensable:  # a snapshot draws nothing
            sequence.lane = self._lanes.pop()

    def _release(self, pages: list[int]) -> None:
        """Give pages back, the last first: those are evicted first, and a prefix is found up to its first gap."""
        self.pool.release(reversed(pages))

    def _leave_lane(self, sequence: Sequence) -> None:
        if sequence.lane is not None:
            self._lanes.append(sequence.lane)
            sequence.lane = None

    def _claim(self, sequence: Sequence) -> bool:
        """Find cached pages of the prompt and allocate the rest, preempting lower priorities if need be."""
        reusable = sequence.request.readout.first_needed(sequence.prompt_len)
        reusable = min(reusable, sequence.prompt_len - 1) // PAGE_SIZE
        found = self.pool.find(sequence.page_keys[:reusable])
        while True:
            try:
                fresh = self.pool.allocate(sequence.num_pages_needed - len(found))
            except OutOfPages:
                if self._preempt_after(sequence, only_lower=True):
                    continue
                self._release(found)
                return False
            sequence.pages = found + fresh
            sequence.resume_from(len(found) * PAGE_SIZE)
            return True

    def _grow(self, sequence: Sequence) -> bool:
        """Pages for all known tokens of a running sequence, preempting later ones; False if it had to go itself."""
        if sequence not in self.running:
            return False
        while (missing := sequence.num_pages_needed - len(sequence.pages)) > 0:
            try:
                sequence.pages += self.pool.allocate(missing)
            except OutOfPages:
                if not self._preempt_after(sequence):
                    self._preempt(sequence)
                    return False
        return True

    def _preempt_after(self, sequence: Sequence, *, only_lower: bool = False) -> bool:
        """Preempt the running sequence of the worst rank, if that is worse than `sequence`'s.

        One whose last token is fed is about to leave by itself.
        """
        victim = next((other for other in reversed(self.running) if not other.done), None)
        if victim is None:
            return False
        worse = victim.rank[0] > sequence.rank[0] if only_lower else victim.rank > sequence.rank
        if worse:
            self._preempt(victim)
        return worse

    def _preempt(self, victim: Sequence) -> None:
        if victim.dispensable:
            victim.gone = True
            self.remove(victim)
            return
        self.running.remove(victim)
        self._release(victim.restart())
        self._leave_lane(victim)
        self.num_preempted += 1
        self.add(victim)


def _prefill_chunks(prefilling: list[Sequence], budget: int) -> Iterator[Chunk]:
    for sequence in prefilling:
        stop = min(sequence.prompt_len, sequence.fed + budget)
        yield Chunk(sequence, sequence.fed, stop)
        budget -= stop - sequence.fed
        if budget == 0:
            return
