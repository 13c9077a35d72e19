"""The device command without a device: it refuses, resumes, keeps its budget and times nothing that is wrong.

Work is stood in for by functions; what a GPU would measure is not tested here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from benchmarks import gpu, gpu_aims, gpu_embed, gpu_kernels
from benchmarks.core import graph_timing
from benchmarks.core.results import Results
from benchmarks.core.work import Item, run_items
from benchmarks.embed import Grid
from tte_kernels.registry import OPS

MACHINE = {"device": "test", "commit": "abc"}


def _items(done: list[str], names: str = "abc") -> list[Item]:
    def work(name: str) -> dict[str, Any]:
        done.append(name)
        return {"ok": True}

    return [Item("parity", name, lambda name=name: work(name)) for name in names]


def test_a_second_run_does_only_what_is_left(tmp_path: Path) -> None:
    done: list[str] = []
    ticks = iter(range(100))
    results = Results(tmp_path / "gpu.jsonl", MACHINE)
    assert run_items(_items(done), results, budget=2, clock=lambda: next(ticks)) == 2
    assert done == ["a"]
    assert run_items(_items(done), Results(tmp_path / "gpu.jsonl", MACHINE), budget=1e9) == 0
    assert done == ["a", "b", "c"]


def test_it_says_how_much_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = Results(tmp_path / "gpu.jsonl", MACHINE)
    now = [0.0]

    def work(seconds: float) -> dict[str, Any]:
        now[0] += seconds
        return {"ok": True}

    short = [Item("parity", str(number), lambda: work(6)) for number in range(20)]
    long = [Item("decode", str(number), lambda: work(60)) for number in range(3)]
    assert run_items([long[0], *short[:9]], results, budget=1e9, clock=lambda: now[0]) == 0
    capsys.readouterr()
    assert run_items([*long, *short], results, budget=1e9, clock=lambda: now[0]) == 0
    said = capsys.readouterr()
    assert not said.out and "23 items, 10 done, 13 to do" in said.err and "[13/23] parity 9 ok" in said.err
    assert said.err.count("min left") == 1 and "about 0 min left" in said.err, "three of six seconds"
    assert [row["took_s"] for row in results.stage("decode").values()] == [60, 60, 60]


def test_another_commit_starts_anew(tmp_path: Path) -> None:
    done: list[str] = []
    run_items(_items(done), Results(tmp_path / "gpu.jsonl", MACHINE), budget=1e9)
    run_items(_items(done), Results(tmp_path / "gpu.jsonl", MACHINE | {"commit": "def"}), budget=1e9)
    assert done == ["a", "b", "c"] * 2


def test_a_line_cut_off_is_dropped_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gpu.jsonl"
    Results(path, MACHINE).add("parity", "a", {"ok": True})
    path.write_text(path.read_text() + '{"stage": "par')
    results = Results(path, MACHINE)
    assert list(results.stage("parity")) == ["a"]
    results.add("parity", "b", {"ok": True})
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "b"]
    path.write_text("no json\n" + path.read_text())
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        Results(path, MACHINE)


def test_an_exception_is_a_row_and_a_lost_device_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results(tmp_path / "gpu.jsonl", MACHINE)
    lost: list[str] = []

    def fail(message: str, sticky: bool) -> dict[str, Any]:
        lost.extend([message] * sticky)
        raise RuntimeError(message)

    def synchronize() -> None:
        if lost:
            raise RuntimeError(lost[0])

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    illegal = "Triton Error [CUDA]: an illegal memory access was encountered"
    items = [
        Item("parity", "odd", lambda: fail("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED", sticky=False)),
        Item("parity", "lost", lambda: fail(illegal, sticky=True)),
        Item("parity", "behind", lambda: {"ok": True}),
    ]
    with pytest.raises(RuntimeError, match="illegal memory access"):
        run_items(items, results, budget=1e9)
    rows = Results(tmp_path / "gpu.jsonl", MACHINE).stage("parity")
    assert rows["odd"]["error"] == "RuntimeError: CUDA error: CUBLAS_STATUS_NOT_SUPPORTED" and not rows["lost"]["ok"]
    assert "behind" not in rows, "nothing runs on a device that is lost"


def test_without_a_ceiling_nothing_is_timed_and_the_table_says_what_is_proven(tmp_path: Path) -> None:
    results = Results(tmp_path / "gpu.jsonl", MACHINE)
    results.add("parity", "op/x/bf16", {"ok": True, "error": ""})
    results.add("ceiling", "copy", {"ok": False, "error": "OutOfMemoryError: 2 GiB"})
    row = gpu_kernels.measure(OPS[0], OPS[0].cases[0], results)
    assert not row["ok"] and "OutOfMemoryError" in row["error"]
    assert "copy ceiling: not measured, OutOfMemoryError: 2 GiB" in gpu.table(results)


def test_an_op_whose_parity_failed_is_not_timed(tmp_path: Path) -> None:
    results = Results(tmp_path / "gpu.jsonl", MACHINE)
    op = OPS[0]
    results.add("parity", f"{op.name}/x/bf16", {"ok": False, "error": "off"})
    row = gpu_kernels.measure(op, op.cases[0], results)
    assert not row["ok"] and f"parity failed: {op.name}/x/bf16" in row["error"]


def test_every_case_is_proven_before_it_is_timed_and_aims_come_before_the_rest(tmp_path: Path) -> None:
    results = Results(tmp_path / "gpu.jsonl", MACHINE)
    model = [Item("decode", "step", dict)]
    items = gpu.plan(OPS, results, model)
    order = {(item.stage, item.key): number for number, item in enumerate(items)}
    assert len(order) == len(items), "nothing is done twice"
    everything = (*gpu_kernels.parity_items(OPS), *gpu_kernels.bits_items(OPS), *gpu_kernels.kernel_items(OPS, results))
    assert set(order) == {(item.stage, item.key) for item in (*everything, gpu_kernels.ceiling_item(), *model)}
    small = [("parity", f"{op.name}/{case.name}/bf16") for op in OPS for case in op.cases if case.tag == "ci"]
    assert {items[number].stage for number in range(len(small))} == {"parity"}
    for op in OPS:
        for case in op.cases:
            key = f"{op.name}/{case.name}"
            assert (("parity", f"{key}/bf16") in order) == (torch.bfloat16 in case.dtypes)
            if ("kernels", key) in order:
                first = max(order["ceiling", "copy"], order["parity", f"{key}/bf16"])
                assert first < order["kernels", key], key
    aimed = [order[aim.stage, key] for aim in gpu_aims.AIMS if aim.stage == "kernels" for key in aim.keys]
    rest = [number for number, item in enumerate(items) if item.stage == "kernels" and number not in aimed]
    assert max(aimed) < order["decode", "step"] < min(rest)


def test_the_models_are_on_the_device_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def load(grid: Grid, image: int) -> str:
        return grid.shape.name

    monkeypatch.setattr(Grid, "load", load)
    monkeypatch.setattr(Grid, "close", lambda grid: seen.append(f"{grid.shape.name} goes"))
    monkeypatch.setattr(Grid, "_measure", lambda grid, cell: seen.append(f"{grid.shape.name} embeds") or {"ok": True})
    monkeypatch.setattr(gpu_embed, "decode_step", lambda loaded, items, rounds: seen.append(loaded) or {"ok": True})
    items = list(gpu_embed.EndToEnd(tmp_path, steps={"qwen2vl-2b": (1, 8), "qwen2vl-7b": (1,)}).items())
    assert [item.stage for item in items] == ["decode", "decode", "embed", "decode"]
    for item in (items[1], *items[2:]):
        assert item.work()["ok"]
    small, large = "qwen2vl-2b", "qwen2vl-7b"
    assert seen == [f"{large} goes", small, f"{large} goes", f"{small} embeds", f"{small} goes", large]


def test_the_table_shows_measurements_and_failures(tmp_path: Path) -> None:
    results = Results(tmp_path / "gpu.jsonl", MACHINE)
    results.add("parity", "op/x/bf16", {"ok": True, "error": ""})
    results.add("ceiling", "copy", {"ok": True, "us_p50": 1.0, "gb_per_s": 4300.0})
    measured = {
        "us_p20": 1.0,
        "us_p50": 2.0,
        "us_p80": 3.0,
        "gb_per_s": 2150.0,
        "share_of_copy": 0.5,
        "tflop_per_s": 1.0,
    }
    peers = {"torch": {"us_p50": 4.0}, "other": {"error": "no kernel"}}
    results.add("kernels", "op/y", {"ok": True, **measured, "l2_cold": True, "peers": peers})
    results.add("kernels", "op/z", {"ok": False, "error": "not timed"})
    text = gpu.table(results)
    results.add("bits", "op/x", {"ok": False, "error": "rows [0] differ"})
    assert "bits differ: op/x: rows [0] differ" in gpu.table(results)
    assert "parity: 1 of 1" in text and "copy ceiling: 4300 GB/s" in text
    assert "| op/y | 2.0 (1.0-3.0) | 2150 | 50% | 1.0 | cold | torch 4.0, other: no kernel |" in text
    assert "| op/z | not timed |" in text
    results.add("parity", "op/w/fp16", {"ok": False, "error": "off by 3"})
    text = gpu.table(results)
    assert "- parity failed: op/w/fp16: off by 3" in text and "| op/y | not timed, parity failed: op/w/fp16 |" in text


@pytest.mark.parametrize(
    ("size", "free", "copies"),
    [(1 << 30, 1 << 37, 8), (1 << 20, 1 << 37, 100), (1, 1 << 37, 256), (1 << 30, 1 << 32, 2)],
)
def test_copies_leave_the_cache_and_fit(size: int, free: int, copies: int) -> None:
    assert graph_timing.copies_for(size, l2=50 << 20, free=free) == copies


@pytest.mark.parametrize(("copies", "call_ms", "rounds"), [(8, 0.002, 25), (150, 0.002, 2), (8, 2.0, 7), (8, 90.0, 1)])
def test_a_graph_has_200_calls_or_lasts_long(copies: int, call_ms: float, rounds: int) -> None:
    assert graph_timing.rounds_for(copies, call_ms) == rounds


def test_bytes_of_nested_inputs() -> None:
    assert graph_timing.nbytes({"x": torch.zeros(3), "y": (torch.zeros(2, dtype=torch.int64), None), "z": 1}) == 28


@pytest.mark.skipif(torch.cuda.is_available(), reason="refusal is for machines without a GPU")
def test_it_refuses_without_a_gpu(tmp_path: Path) -> None:
    done = CliRunner().invoke(gpu.main, ["--out", str(tmp_path)])
    assert done.exit_code == 2 and "needs a GPU" in done.stderr and not done.stdout
    assert not list(tmp_path.iterdir())


def test_an_unknown_op_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(gpu.main, ["--out", str(tmp_path), "--ops", "softmax"])
    assert done.exit_code == 2 and "must be among" in done.stderr
