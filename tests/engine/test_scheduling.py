"""Scheduling as pure logic: order, chunks, priorities, preemption. No model is run."""

from __future__ import annotations

import torch

from tte_runtime.engine.kv_cache import PagePool
from tte_runtime.engine.request import EngineRequest, Listener
from tte_runtime.engine.scheduler import Batch, Scheduler
from tte_runtime.engine.sequence import Sequence

SILENT = Listener(on_result=lambda result: None, on_error=lambda error: None)


class Bench:
    """A scheduler and the book-keeping that the engine would do after each step."""

    def __init__(self, num_pages: int = 64, batch: int = 4, chunk: int = 16) -> None:
        self.pool = PagePool(num_pages)
        self.scheduler = Scheduler(self.pool, max_batch_size=batch, max_prefill_tokens=chunk)
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

    def step(self) -> Batch | None:
        batch = self.scheduler.schedule()
        for chunk in batch.chunks if batch else ():
            sequence = chunk.sequence
            assert len(sequence.pages) * 16 >= chunk.stop, "tokens are fed only where there are pages"
            assert chunk.start == sequence.fed
            assert batch is not None and batch.decode == (chunk.start >= sequence.prompt_len)
            sequence.advance(len(chunk))
            if sequence.fed == len(sequence.ids) and sequence.may_sample:
                assert sequence.learn(sequence.expect(), 5)
            if sequence.done:
                self.scheduler.remove(sequence)
        return batch

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
    seen = []
    while (batch := bench.step()) and not interactive.done:
        seen.append("decode" if batch.decode else "chunk")
    assert "decode" in seen and "chunk" in seen[:4], "decoding and the job's chunks take turns"
    bench.run()
    assert corpus.done


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
