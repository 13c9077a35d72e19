"""The aims of the GPU command on made rows: each finds the rows it names, and says by how much it is missed.

And the peers that two of them stand on, with libraries that are stood in for by functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_aims, gpu_kernels
from benchmarks.core.graph_timing import Timing
from benchmarks.core.machine import ROOT
from benchmarks.core.results import Results
from benchmarks.gpu_aims import AIMS, Aim
from benchmarks.gpu_embed import STEPS
from tte_kernels.registry import OPS, get_op

COPY = 4000.0


def named(start: str) -> Aim:
    (aim,) = (aim for aim in AIMS if str(aim).startswith(start))
    return aim


@pytest.fixture
def results(tmp_path: Path) -> Results:
    found = Results(tmp_path / "gpu.jsonl", {"device": "test"})
    found.add("ceiling", "copy", {"ok": True, "gb_per_s": COPY})
    return found


def kernel(results: Results, key: str, us: float, moved: float, **peers: float) -> None:
    timed: dict[str, Any] = {name: {"us_p50": value} for name, value in peers.items()}
    results.add("kernels", key, {"ok": True, "us_p50": us, "bytes": moved, "peers": timed})


def test_every_aim_names_rows_that_a_run_makes(results: Results) -> None:
    made = {(item.stage, item.key) for item in gpu_kernels.kernel_items(OPS, results)}
    made |= {("decode", f"{shape}/bfloat16/batch={batch}") for shape, batches in STEPS.items() for batch in batches}
    assert {(aim.stage, key) for aim in AIMS for key in aim.keys} <= made
    assert len({str(aim) for aim in AIMS}) == len(AIMS)


def test_every_aim_stands_in_the_documentation() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert [str(aim) for aim in AIMS if f"| {aim} |" not in page] == []


def test_without_rows_all_are_not_measured_yet(results: Results) -> None:
    rows = gpu_aims.write(results)
    assert {row["verdict"] for row in rows} == {"not measured yet"} and len(rows) == len(AIMS)
    assert gpu_aims.table(rows).count("not measured yet") == len(AIMS)
    before = results.path.read_text()
    gpu_aims.write(results)
    assert results.path.read_text() == before, "what did not change is not written again"


def test_a_time_is_met_or_missed_by_so_much(results: Results) -> None:
    aim = named("pool_normalize, 1 and 64")
    for key in aim.keys:
        kernel(results, key, 2.5, 1e6)
    assert gpu_aims.judge(aim, results)["verdict"] == "met"
    kernel(results, aim.keys[-1], 3.25, 1.2e6)
    row = gpu_aims.judge(aim, results)
    assert (row["met"], row["value"], row["verdict"]) == (False, 3.25, "missed by 0.25 us")
    assert row["bound"] == "0.30 us at 4000 GB/s"


def test_a_layer_weighs_by_bytes_and_grows_by_its_slowest(results: Results) -> None:
    share, flat = named("decode_linear, a layer of 2B, one row"), named("decode_linear, a layer of 2B, 1 to 16")
    times = {"S1": 10.0, "S4": 11.0, "S16": 10.0}
    for key in flat.keys:
        kernel(results, key, times[key.rpartition("-")[2]], 30e6 if "8960" in key else 20e6)
    row = gpu_aims.judge(share, results)
    assert row["value"] == pytest.approx(90e6 / 40 / 1e3 / COPY) and row["verdict"] == "missed by 8.8%"
    assert gpu_aims.judge(flat, results)["value"] == pytest.approx(1.1)
    assert share.keys == flat.keys[:4]


def test_the_best_peer_counts_and_its_absence_is_said(results: Results) -> None:
    aim = named("extend_attention against the best library, 7B")
    kernel(results, aim.keys[0], 200.0, 1e6)
    assert gpu_aims.judge(aim, results)["verdict"] == "not measured: no library served the shape"
    kernel(results, aim.keys[0], 200.0, 1e6, **{"flash-attn": 140.0, "sdpa-cudnn": 130.0, "xformers": 10.0})
    row = gpu_aims.judge(aim, results)
    assert row["value"] == pytest.approx(0.65) and row["met"]


def test_a_decode_step_decides_two_aims(results: Results) -> None:
    key = "qwen2vl-2b/bfloat16/batch=1"
    results.add("decode", key, {"ok": True, "p50": 1.0, "floor_ms": 0.72, "floor_share": 0.72})
    rows = [gpu_aims.judge(aim, results) for aim in AIMS if aim.keys == (key,)]
    assert [row["verdict"] for row in rows] == ["met", "missed by 0.050 ms"]
    assert rows[0]["bound"] == "0.720 ms, reached to 72%"
    results.add("decode", key, {"ok": False, "error": "off"})
    assert gpu_aims.judge(named("decode step of qwen2vl-7b"), results)["met"] is None


def test_what_fails_its_parity_later_is_withheld(results: Results) -> None:
    aim = named("lm_head of 2B")
    kernel(results, aim.keys[0], 110.0, 4e8)
    assert gpu_aims.judge(aim, results)["value"] == pytest.approx(4e8 / 110 / 1e3 / COPY)
    results.add("parity", "sample/other/fp16", {"ok": False, "error": "off"})
    row = gpu_aims.judge(aim, results)
    assert row["value"] is None and row["verdict"] == "not timed, parity failed: sample/other/fp16"


def test_installed_libraries_are_peers_and_a_broken_one_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    op = get_op("rms_norm")
    case = next(case for case in op.cases if case.tag == "ci" and case.dims["T"])
    copies = [case.make_inputs(seed, "cpu", torch.float32) for seed in range(2)]

    def timed(calls: Any) -> Timing:
        assert len(calls) == len(copies)
        return Timing(1.0, 2.0, 3.0, len(calls))

    monkeypatch.setattr(gpu_kernels, "libraries_of", lambda op, inputs: {"liger": lambda: None})
    assert gpu_kernels.time_peers(op, case, copies, timed) == {"F.rms_norm": {"us_p50": 2.0}, "liger": {"us_p50": 2.0}}

    def broken(op: str, inputs: Any) -> Any:
        raise ImportError("undefined symbol: _ZN3c10\nand more")

    monkeypatch.setattr(gpu_kernels, "libraries_of", broken)
    found = gpu_kernels.time_peers(op, case, copies, timed)
    assert found["libraries"] == {"error": "undefined symbol: _ZN3c10"} and "F.rms_norm" in found


def test_cublas_stands_alone_where_the_rest_is_another_launch() -> None:
    op = get_op("linear")
    for name, peers in (("T1-I192-O320-bias", 1), ("T63-I100-O70-residual", 2), ("T1-tiny-I192-O256-swiglu", 2)):
        case = next(case for case in op.cases if case.name == name)
        inputs = case.make_inputs(0, "cpu", torch.float32)
        found = gpu_kernels.peers_of("linear", inputs, case)
        assert len(found) == peers
        torch.testing.assert_close(found["F.linear"](), op.reference(**inputs))
