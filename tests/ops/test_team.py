"""Threads of one compiled call: nobody waits for one that failed, and a fork has helpers of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from tte_runtime.ops.rows import barrier, numbers
from tte_runtime.ops.rows.product import PanelMatrix
from tte_runtime.ops.rows.team import Team
from tte_runtime.ops.threads import use_threads

SECONDS = 60


@pytest.mark.parametrize("pieces", [False, True], ids=["columns", "pieces"])
@pytest.mark.parametrize("failing", [0, 1], ids=["the caller", "a helper"])
def test_nobody_waits_for_one_that_failed(failing: int, pieces: bool) -> None:
    team, counters, both = Team(2), np.zeros(3, np.int64), threading.Barrier(2)

    def part(me: int, of: int) -> None:
        both.wait(SECONDS)  # the helper has begun
        if me == failing:
            raise MemoryError("of this part")
        if pieces:
            barrier.settle(counters, 0, True, 2)  # the other's piece never comes
        else:
            barrier.meet(counters, of, 0)

    def call() -> None:
        with pytest.raises(MemoryError, match="of this part"):
            team.run(part, 2, counters, pieces=pieces)
        done.append(True)

    done: list[bool] = []
    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    caller.join(SECONDS)
    assert done, "the other part waits for ever"
    seen: list[int] = []
    team.run(lambda me, of: seen.append(me), 2, np.zeros(3, np.int64), pieces=False)
    assert sorted(seen) == [0, 1], "the team goes on"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_has_helpers_of_its_own() -> None:
    script = """
import os, sys, numpy as np
from tte_runtime.ops.rows.team import Team
team, seen = Team(2), []
call = lambda: team.run(lambda me, of: seen.append(me), 2, np.zeros(3, np.int64), pieces=False)
call()
if (child := os.fork()) == 0:
    call()
    os._exit(0 if sorted(seen) == [0, 0, 1, 1] else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=SECONDS)


def test_the_processes_default_dtype_changes_nothing() -> None:
    weight, x = torch.randn(40, 24), torch.randn(5, 24)
    usual = PanelMatrix(weight, Team(1)).times(x)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(PanelMatrix(weight, Team(1)).times(x), usual)
    finally:
        torch.set_default_dtype(torch.float32)


def test_where_no_folder_can_be_written_code_is_compiled_anew(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compile_ = numbers.njit

    def without_folder(cache: bool = False, **options: object) -> object:
        if cache:
            raise RuntimeError("cannot cache function: no locator available for file")
        return compile_(**options)

    monkeypatch.setattr(numbers, "njit", without_folder)
    numbers._say_not_kept.cache_clear()
    assert numbers.entry_point(lambda x: x + 1)(2) == 3
    assert numbers.entry_point(lambda x: x + 2)(2) == 4
    assert capsys.readouterr().err.count("NUMBA_CACHE_DIR") == 1


def test_engines_that_start_at_once_leave_the_processes_threads_alone() -> None:
    before = torch.get_num_threads()
    for _ in range(50):
        threads = [threading.Thread(target=use_threads, args=(count,)) for count in (1, 2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    seen: list[int] = []
    fresh = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    fresh.start()
    fresh.join()
    assert seen == [before]
