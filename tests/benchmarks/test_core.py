"""The rooms that all benchmarks share: statistics on known data, results and work, memory, ceilings, the machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.core.ceiling import flop_rate, read_bandwidth
from benchmarks.core.machine import machine
from benchmarks.core.memory import peak_bytes
from benchmarks.core.results import Results, ResultsError, last_run, read_rows
from benchmarks.core.statistics import Summary, paired_ratio, ratio_of
from benchmarks.core.tables import markdown
from tte_runtime.evaluation.compare import Arm, take_turns


def test_a_summary_of_known_values() -> None:
    summary = Summary.of([float(value) for value in range(1, 102)])
    assert (summary.count, summary.p50, summary.p95, summary.least, summary.most) == (101, 51, 96, 1, 101)
    assert summary.spread == 50
    assert Summary.of([3.0]) == Summary(1, 3.0, 3.0, 3.0, 3.0, 0.0)


def test_a_paired_ratio_cancels_what_slows_a_whole_round() -> None:
    rng = np.random.default_rng(1)
    ours = rng.lognormal(0, 1, 40)  # the machine, very uneven
    theirs = 2 * ours
    paired, apart = paired_ratio(theirs, ours), ratio_of(theirs, ours)
    assert paired.value == apart.value == pytest.approx(2)
    assert paired.high - paired.low < 0.001 < apart.high - apart.low
    assert paired.excludes(1.0) and not paired.excludes(2.0)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    samples = [(rng.normal(15, 1, 30), rng.normal(10, 1, 30)) for _ in range(100)]
    covered = sum(not ratio_of(theirs, ours).excludes(1.5) for theirs, ours in samples)
    assert 88 <= covered <= 100
    assert not ratio_of([5.0] * 9, [5.0] * 9).excludes(1.0)


def test_reading_gives_the_same_figures_again() -> None:
    values = list(np.random.default_rng(2).normal(5, 1, 20))
    assert ratio_of(values, values[::-1]) == ratio_of(values, values[::-1])


def test_rows_of_every_machine_are_read(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    Results(path, {"device": "a"}).add("embed", "x", {"ok": True})
    Results(path, {"device": "b"}).add("embed", "x", {"ok": True})
    path.write_text(path.read_text() + '{"stage"')
    assert [row["machine"]["device"] for row in read_rows(path)] == ["a", "b"]
    assert Results(path, {"device": "a"}).get("embed", "x") is not None
    assert Results(path, {"device": "c"}).get("embed", "x") is None
    assert path.read_text().endswith("}\n")


def test_turns_rotate_and_keep_the_order_of_the_arms() -> None:
    calls: list[str] = []

    def arm(name: str) -> Arm:
        return Arm(name, lambda item: calls.append(name), lambda: calls.append("before"))

    seconds = take_turns([arm("a"), arm("b"), arm("c")], None, turn=4)
    assert calls == ["before", "b", "before", "c", "before", "a"]
    assert len(seconds) == 3 and min(seconds) > 0


def test_peak_memory_sees_what_a_call_needs() -> None:
    peak = peak_bytes(lambda: torch.ones(64 << 20, dtype=torch.uint8), "cpu")
    assert peak is None or 60 << 20 < peak < 256 << 20


def test_ceilings_are_rates_of_this_machine() -> None:
    assert 0.1 < read_bandwidth("cpu", 1 << 22) < 10_000
    assert 0.0001 < flop_rate("cpu", torch.float32) < 1000


def test_a_machine_says_what_decides_a_figure() -> None:
    found = machine("cpu", threads_wanted=3)
    assert found["torch"] == torch.__version__ and found["threads"] == torch.get_num_threads()
    assert found["threads_wanted"] == 3 and len(found["commit"].removesuffix("+changes")) in (7, 40)
    assert found == machine("cpu", threads_wanted=3)


def test_a_table() -> None:
    assert markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"


def test_what_is_made_from_results_changes_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True)

    names = ("code.py", "docs/measured.md", "docs/pictures/load.png", "benchmarks/results/load.jsonl")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "x")
    monkeypatch.setattr("benchmarks.core.machine.ROOT", tmp_path)
    for name in names[1:]:
        (tmp_path / name).write_text("after")
    assert not machine("cpu")["commit"].endswith("+changes")
    (tmp_path / "code.py").write_text("after")
    assert machine("cpu")["commit"].endswith("+changes")


def test_of_a_file_the_last_run_of_a_stage_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    for commit, keys in (("old", "xy"), ("new", "yz"), ("new", "z")):
        for key in keys:
            Results(path, {"commit": commit}).add("embed", key, {"ok": True})
    Results(path, {"commit": "newest"}).add("decode", "x", {"ok": True})
    found = last_run(read_rows(path), "embed")
    assert [(row["machine"]["commit"], row["key"]) for row in found] == [("new", "y"), ("new", "z")]
    assert last_run([], "embed") == []
    for line in ("[1]\n", "no json\n"):
        path.write_text(line)
        with pytest.raises(ResultsError, match="line 1"):
            read_rows(path)
