"""benchmarks.load: arrivals that do not wait, latency from when a request was due, and a real run of all systems."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import load
from benchmarks.core.results import read_rows
from benchmarks.shapes import SHAPES
from benchmarks.systems import DynamicBatching
from benchmarks.traffic import Arrival, Traffic, make_traffic
from benchmarks.ways import Way

TINY = SHAPES["tte-tiny"]


class OneAtATime:
    """Takes `seconds` for each request, one after another."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.seen, self.dropped, self._lock = seconds, list[str](), 0, threading.Lock()

    def submit(self, item: dict[str, Any], priority: str, done: Callable[[], None]) -> None:
        def work() -> None:
            with self._lock:
                self.seen.append(priority)
                time.sleep(self.seconds)
            done()

        threading.Thread(target=work, daemon=True).start()

    def drop(self) -> None:
        self.dropped += 1


def test_traffic_is_seeded_open_and_mixed() -> None:
    traffic = make_traffic(TINY, 20, 3)
    again = make_traffic.__wrapped__(TINY, 20, 3)
    assert [a.at for a in traffic.arrivals] == [a.at for a in again.arrivals]
    assert 30 <= len(traffic.arrivals) <= 90 and traffic.arrivals[-1].at < 3
    assert len({a.item["image"].size for a in traffic.arrivals}) == 3
    boards = [a.item["image"].getpixel((0, 0)) for a in traffic.arrivals]
    assert 0.3 < len(set(boards)) / len(boards) < 0.9, "some boards are asked about again"
    assert len(make_traffic(TINY, 0.001, 1).arrivals) == 1
    job = [traffic.corpus(number) for number in range(5000)]  # some hundred a second, for several seconds
    pictures = {(item["image"].size, item["image"].tobytes()) for item in job}
    assert len(pictures) == len({item["text"] for item in job}) == len(job), "a cache would do the job's work"
    assert not pictures & {(a.item["image"].size, a.item["image"].tobytes()) for a in traffic.arrivals}


def test_latency_counts_from_when_a_request_was_due() -> None:
    system = OneAtATime(0.1)
    arrivals = [Arrival(0.0, {}) for _ in range(4)]
    found = load.play(system, Traffic(arrivals, dict), objective=5, seconds=0.1, in_work=0)
    assert system.dropped == 1 and system.seen == ["interactive"] * 4
    assert sorted(found["ms"])[-1] > 380 and sorted(found["ms"])[0] < 390
    late = load.play(OneAtATime(5), Traffic(arrivals, dict), objective=0.1, seconds=0.0, in_work=0)
    assert late["ms"] == [None] * 4


def test_goodput_and_percentiles() -> None:
    found = load.summary([100.0, 200.0, 300.0, None], objective_ms=250, seconds=2)
    assert found == {"goodput": 1.0, "share": 0.5, "p50": 300.0, "p95": None, "p99": None}


def test_dynamic_batching_takes_what_waits_interactive_first() -> None:
    batches: list[list[str]] = []
    going, gate = threading.Event(), threading.Event()

    def embed(batch: list[Any], think: Any) -> list[Any]:
        batches.append([item["text"] for item in batch])
        going.set()
        gate.wait(5)
        return []

    system = DynamicBatching(Way("x", embed, embed, lambda: None, lambda results: {}), None, 2)  # type: ignore[arg-type]
    done = threading.Semaphore(0)
    system.submit({"text": "first"}, "corpus", done.release)
    assert going.wait(5)
    for text, priority in (("job", "corpus"), ("a", "interactive"), ("b", "interactive"), ("c", "interactive")):
        system.submit({"text": text}, priority, done.release)  # type: ignore[arg-type]
    gate.set()
    assert all(done.acquire(timeout=5) for _ in range(5))
    assert batches == [["first"], ["a", "b"], ["c"], ["job"]]
    system.drop()


def test_a_corpus_job_ends_with_the_arrivals_and_not_before() -> None:
    asked: list[int] = []
    traffic = Traffic([Arrival(0.3, {})], lambda number: asked.append(number) or {})
    found = load.play(OneAtATime(0.001), traffic, objective=5, seconds=0.3, in_work=2)
    assert sorted(asked) == list(range(len(asked))) and len(asked) > 2 and found["corpus_per_s"] > 0


REFUSED = [
    *(("--rates", value) for value in ("2,0", "fast", "nan", "inf")),
    *(("--seconds", value) for value in ("0", "-1", "nan", "inf")),
    *(("--objective-ms", "-5"), ("--budget", "-1"), ("--trace", "-1"), ("--trace", "5000")),
    *(("--device", "toaster"), ("--dtype", "int3"), ("--out", ".")),
]


@pytest.mark.parametrize(("option", "value"), REFUSED)
def test_what_is_refused(tmp_path: Path, option: str, value: str) -> None:
    done = CliRunner().invoke(load.main, ["--out", str(tmp_path / "x"), option, value])
    assert done.exit_code == 2 and not done.stdout and not (tmp_path / "x").exists()
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ")


def test_a_real_run(tmp_path: Path) -> None:
    out = tmp_path / "load.jsonl"
    options = ["--rates", "4", "--seconds", "1", "--trace", "2", "--objective-ms", "30000", "--out", str(out)]
    done = CliRunner().invoke(load.main, options)
    assert done.exit_code == 0, done.output
    rows = {row["system"]: row for row in read_rows(out)}
    assert set(rows) == set(load.SYSTEMS)
    assert all(row["share"] == 1 and len(row["ms"]) == len(rows["ours"]["ms"]) for row in rows.values())
    assert "| 4 | dynamic batching |" in done.stdout
