"""Scheduling as pure logic: order, chunks, priorities, preemption. No model is run."""

from __future__ import annotations

import pytest
import torch

from tte_runtime.engine.forks import Family
from tte_runtime.engine.kv_cache import PagePool, page_keys
from tte_runtime.engine.request import EngineRequest, Listener
from tte_runtime.engine.scheduler import Batch, Scheduler
from tte_runtime.engine.sequence import Sequence
from tte_runtime.engine.turns import CORPUS_PART, Turns

SILENT = Listener(on_result=lambda result: None, on_error=lambda error: None)


class Bench:
    """A scheduler and the book-keeping that the engine would do after each step."""

    def __init__(self, num_pages: int = 64, batch: int = 4, chunk: int = 16, shared: bool = False) -> None:
        self.pool = PagePool(num_pages)
        turns = Turns(shared=shared)
        self.scheduler = Scheduler(self.pool, turns, max_batch_size=batch, max_prefill_tokens=chunk)
        self.made = 0

    def add(self, prompt: int, *, trace: int = 0, suffix: int = 1, priority: str = "interactive") -> Sequence:
        request = EngineRequest(
            prompt_ids=tuple(range(1, prompt + 1)),
            positions=torch.zeros(3, prompt, dtype=torch.int64),
            position_delta=0,
            max_trace_tokens=trace,
            close_ids=(7, 7),
            suffix_ids=(9,) * suffix,
            priority=priority,  # type: ignore[arg-type]
        )
        sequence = Sequence(request, SILENT, self.made, [])
        self.made += 1
        self.scheduler.add(sequence)
        return sequence

    def step(self, seconds: float = 1.0) -> Batch | None:
        batch = self.scheduler.schedule()
        if batch is not None:
            self.book(batch, seconds)
        return batch

    def book(self, batch: Batch, seconds: float) -> None:
        self.scheduler.turns.end(batch.is_corpus, seconds)
        for chunk in batch.chunks:
            sequence = chunk.sequence
            assert len(sequence.pages) * 16 >= chunk.stop, "tokens are fed only where there are pages"
            assert chunk.start == sequence.fed
            assert batch.decode == (chunk.start >= sequence.prompt_len)
            sequence.advance(len(chunk))
            if sequence.fed == len(sequence.ids) and sequence.may_sample:
                assert sequence.learn(sequence.expect(), 5, stops=False)
            if sequence.done:
                self.scheduler.remove(sequence)

    def run(self) -> int:
        steps = 0
        while self.step() is not None:
            steps += 1
            assert steps < 10_000, "the scheduler goes round in circles"
        return steps


def test_prompts_are_cut_into_chunks_and_packed() -> None:
    bench = Bench(chunk=10)
    first, second = bench.add(14), bench.add(3)
    one, two = bench.step(), bench.step()
    assert one and [(c.sequence, len(c)) for c in one.chunks] == [(first, 10)]
    assert two and [(c.sequence, len(c)) for c in two.chunks] == [(first, 4), (second, 3)]


def test_suffix_tokens_are_rows_of_one_decode_step() -> None:
    bench = Bench()
    sequence = bench.add(4, suffix=3)
    bench.step()
    batch = bench.step()
    assert batch and batch.decode and len(batch.chunks[0]) == 3 and sequence.done


def test_an_interactive_request_overtakes_the_chunks_of_a_corpus_job() -> None:
    bench = Bench(chunk=8)
    corpus = bench.add(80, priority="corpus")
    bench.step()
    interactive = bench.add(8, trace=2)
    batch = bench.step()
    assert batch and [c.sequence for c in batch.chunks] == [interactive]
    bench.run()
    assert corpus.done


@pytest.mark.parametrize("job_step", [1.0, 50.0])
def test_a_corpus_job_has_an_eighth_of_the_time_while_somebody_waits(job_step: float) -> None:
    """However long its steps take, prompts and tokens; and nobody's tokens wait for more than one of them."""
    bench = Bench(chunk=64, num_pages=400)
    interactive, corpus = bench.add(8, trace=3000), bench.add(40, trace=3000, priority="corpus")
    spent, last = {True: 0.0, False: 0.0}, False
    while not interactive.done and (batch := bench.scheduler.schedule()):
        is_job = batch.chunks[0].sequence is corpus
        assert not (is_job and last), "two steps of the job in a row"
        last = is_job
        bench.book(batch, job_step if is_job else 1.0)
        spent[is_job] += job_step if is_job else 1.0
    assert spent[True] == pytest.approx((spent[True] + spent[False]) / CORPUS_PART, rel=0.02, abs=job_step)
    bench.run()
    assert corpus.done and corpus.trace_len == 3000


def test_where_rows_are_free_those_of_the_corpus_job_ride_along() -> None:
    bench = Bench(chunk=64, shared=True)
    interactive, corpus = bench.add(8, trace=30), bench.add(8, trace=10, priority="corpus")
    batches = list(iter(bench.step, None))
    assert [batch.decode for batch in batches[:3]] == [False, False, True], "each one's prompt, then both decode"
    assert [chunk.sequence for chunk in batches[2].chunks] == [interactive, corpus]
    assert len(batches) < 40, "no step of the job alone"


def test_a_corpus_job_takes_small_steps_while_somebody_waits_for_tokens() -> None:
    bench = Bench(chunk=64)
    interactive, corpus = bench.add(8, trace=6), bench.add(200, priority="corpus")
    sizes = {False: set(), True: set()}  # of the job's chunks, by whether somebody was waiting
    while batch := bench.step():
        if not batch.decode and batch.chunks[0].sequence is corpus:
            sizes[not interactive.done].add(len(batch.chunks[0]))
    assert sizes[True] == {8} and max(sizes[False]) == 64 and corpus.done


def test_an_interactive_request_takes_a_full_engines_place() -> None:
    bench = Bench(batch=2)
    jobs = [bench.add(8, trace=50, priority="corpus") for _ in range(2)]
    for _ in range(5):
        bench.step()
    interactive = bench.add(8)
    batch = bench.step()
    assert batch and batch.chunks[0].sequence is interactive
    assert bench.scheduler.num_preempted == 1
    bench.run()
    assert all(job.done and job.trace_len == 50 for job in jobs)
    assert jobs[1].replayed > 0 and jobs[0].replayed == 0, "the later job is the one that waits"


def test_preemption_loses_no_token_and_ends() -> None:
    bench = Bench(num_pages=12, batch=8, chunk=32)
    sequences = [bench.add(20 + 7 * i, trace=60) for i in range(6)]
    bench.run()
    assert bench.scheduler.num_preempted > 0
    for sequence in sequences:
        assert sequence.done and sequence.trace_len == 60
        assert sequence.computed - sequence.replayed == len(sequence.ids)
    assert bench.pool.num_available == 11, "every page came back"


def test_closing_tokens_follow_a_limit_but_not_a_stop() -> None:
    bench = Bench()
    forced = bench.add(4, trace=3)
    bench.run()
    assert forced.ids[4:] == [5, 5, 5, 7, 7, 9]
    assert (forced.finish_reason, forced.forced_by) == ("forced", "max_tokens")
    plain = bench.add(4)
    bench.run()
    assert plain.ids[4:] == [9] and plain.finish_reason == "no_trace"


def test_a_removed_sequence_leaves_no_page_behind() -> None:
    bench = Bench()
    sequence = bench.add(30, trace=9)
    bench.step()
    bench.scheduler.remove(sequence)
    assert bench.pool.num_available == 63
    assert bench.step() is None


def test_more_rows_than_places_where_every_stream_has_a_snapshot() -> None:
    """Snapshots hold no place, so 40 streams make 80 rows: nothing is left over, and nobody's share is negative."""
    scheduler = Scheduler(PagePool(400), Turns(shared=False), max_batch_size=40, max_prefill_tokens=4096)
    families = []
    for order in range(40):
        positions = torch.zeros(3, 3, dtype=torch.int64)
        request = EngineRequest((1, 2, 3), positions, 0, max_trace_tokens=9, snapshot_every=1, suffix_ids=(9, 9))
        families.append(Family(request, SILENT, order, []))
        scheduler.add(families[-1].first)
    for decode in (False, True):
        batch = scheduler.schedule()
        assert batch and batch.decode == decode and len(batch.chunks) == 40
        for chunk, family in zip(batch.chunks, families, strict=True):
            chunk.sequence.advance(len(chunk))
            if decode:
                scheduler.fork(chunk.sequence, family.snapshot(chunk.sequence), chunk.stop)
            assert chunk.sequence.learn(chunk.sequence.expect(), 5, stops=False)
    batch = scheduler.schedule()
    assert batch and [len(chunk) for chunk in batch.chunks] == [1] * 80


def test_an_eviction_costs_a_cached_prefix_its_last_page() -> None:
    """A prefix is found up to its first gap, so its pages go from the end, however its last holder left."""
    keys = page_keys(range(1, 162), [])
    for leave in ("remove", "preempt", "no room"):
        bench = Bench(num_pages=13, chunk=200)
        sequence = bench.add(161)
        sequence.page_keys = keys
        bench.step()
        bench.scheduler.publish(sequence, 160)
        if leave == "preempt":
            bench.scheduler._preempt(sequence)
            bench.scheduler.waiting.clear()
        else:
            bench.scheduler.remove(sequence)
        if leave == "no room":  # found, held, and let go because the rest does not fit
            held = bench.pool.allocate(2)
            other = bench.add(170)
            other.page_keys = keys
            other.ids += [5] * 40
            assert bench.step() is None
            bench.pool.release(held)
        bench.pool.allocate(3)  # two free ones and one eviction
        assert len(bench.pool.find(keys)) == 9, leave


def test_those_that_are_gone_leave_a_batch() -> None:
    bench = Bench()
    sequences = [bench.add(4) for _ in range(3)]
    batch = bench.scheduler.schedule()
    sequences[1].gone = True
    assert batch and [chunk.sequence for chunk in batch.without_gone().chunks] == [sequences[0], sequences[2]]
