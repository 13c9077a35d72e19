"""Ablation, ops, comparison, pictures and the GPU command's last stages: on made rows, and each once for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import ablation, compare, figures, gpu_embed, report, switches
from benchmarks.core.machine import ROOT
from benchmarks.core.results import Results, read_rows

MACHINE = {"device": "test", "threads": 2, "torch": "2", "commit": "abcdef012"}
WAYS = {
    "ours": {"ms": [10.0, 11.0, 10.5] * 5, "p50": 10.5, "computed": 20, "counts": {"trace": 9.0}, "ratio": [1, 1, 1]},
    "two-pass": {"ms": [20.0, 22.0, 21.0] * 5, "p50": 21.0, "ratio": [2.0, 1.9, 2.1]},
}


def embed_row(path: Path, machine: dict[str, Any] = MACHINE, slower: float = 1.0, batch: int = 1) -> None:
    ways = json.loads(json.dumps(WAYS))
    ways["ours"]["ms"] = [slower * ms for ms in ways["ours"]["ms"]]
    stages = {"ours": {"prefill": 4.0, "decode": 6.0}, "two-pass": {"generate": 15.0, "second pass": 6.0}}
    cell = {"image": 16, "trace": None, "batch": batch}
    values = {"ok": True, "shape": "tte-tiny", "cell": cell, "ways": ways, "breakdown": stages}
    Results(path, machine).add("embed", f"tte-tiny/batch={batch}/{'+'.join(ways)}", values)


def compared(before: Path, after: Path, *options: str) -> Any:
    return CliRunner().invoke(compare.main, [str(before), str(after), *options])


def test_only_what_changed_beyond_noise_is_shown(tmp_path: Path) -> None:
    before, after = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    embed_row(before)
    embed_row(after, MACHINE | {"commit": "fedcba"}, slower=1.3)
    embed_row(after, MACHINE, batch=8)
    Results(before, MACHINE).add("load", "x", {"ok": True, "ms": [5.0, None, 6.0]})
    Results(before, MACHINE).add("parity", "x", {"ok": False, "error": "off"})
    done = compared(before, after)
    assert done.exit_code == 0 and done.stdout.count("\n| embed") == 1
    assert "| embed/tte-tiny/batch=1/ours | 10.500 | 13.650 | 1.30 [" in done.stdout and "| slower |" in done.stdout
    assert "1 of 2 figures changed by 2 % or more" in done.stdout
    assert "commit: abcdef012 -> abcdef012" not in done.stderr and "only before: load/x" in done.stderr
    assert "0 of 2 figures" in compared(before, after, "--least", "40").stdout
    assert "0 of 3 figures" in compared(before, before).stdout
    assert "no times before: parity/x" in done.stderr
    broken = tmp_path / "c.jsonl"
    broken.write_text("no json\n")
    assert compared(before, broken).exit_code == 2


def test_rows_of_every_kind_are_compared_and_foreign_ones_refused(tmp_path: Path) -> None:
    before, after, other = (tmp_path / f"{name}.jsonl" for name in ("before", "after", "other"))
    for path, times in ((before, 1), (after, 2)):
        for turns in ("item", "repetition"):
            row = {"ok": True, "seconds": [[0.01 * times, 0.03 * times]] * 9}
            Results(path, MACHINE | {"turns": turns}).add("tiny", "ours", row)
        scenes = {"row": "direct", "seed": 0, "cost": {"ms": [5.0 * times] * 9}, "machine": "a machine, some versions"}
        bare = {"stage": "formats", "key": "float32", "ok": True, "ms": [7.0 * times] * 9}
        with path.open("a") as file:
            for one in (bare, scenes | {"row": "filler", "cost": None}, scenes):
                file.write(json.dumps(one) + "\n")
    done = compared(before, after)
    assert done.exit_code == 0 and "4 of 4 figures" in done.stdout, done.output
    assert "| tiny/ours/turns of one item | 20.000 | 40.000 |" in done.stdout
    assert "| scenes/direct/seed=0 | 5.000 | 10.000 |" in done.stdout
    assert "no times after: scenes/filler/seed=0" in done.stderr
    other.write_text('{"name": "x"}\n')
    done = compared(before, other)
    assert done.exit_code == 2 and "other.jsonl: row 1 is no row of a benchmark" in done.stderr


def test_pictures_come_from_files_and_only_from_them(tmp_path: Path) -> None:
    results = tmp_path / "results"
    embed_row(results / "embed.jsonl")
    load = {"ok": True, "system": "ours", "seconds": 2, "ms": [5.0, None], "goodput": 0.5, "objective_ms": 100.0}
    Results(results / "load.jsonl", MACHINE).add("load", "x", load)
    done = CliRunner().invoke(figures.main, ["--results", str(results), "--pictures", str(tmp_path / "drawn")])
    assert done.exit_code == 0, done.output
    drawn = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert drawn == ["load.png", "ratios.png", "waterfall.png"] and "roofline.png is not drawn" in done.stderr
    assert all((tmp_path / "drawn" / name).read_bytes()[:4] == b"\x89PNG" for name in drawn)


def test_a_picture_shows_one_commit_and_milliseconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, drawn = tmp_path / "results", dict[str, Any]()
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.update({path.name: figure}))
    load = {"ok": True, "system": "ours", "seconds": 1, "goodput": 1.0, "objective_ms": 100.0}
    for commit, arrived in (("0000000", (1, 2, 3)), ("abcdef0", (4, 5))):
        embed_row(results / "embed.jsonl", MACHINE | {"commit": commit}, batch=arrived[0])
        for count in arrived:
            Results(results / "load.jsonl", MACHINE | {"commit": commit}).add(
                "load", f"rate={count}", load | {"ms": [5.0] * count}
            )
    done = CliRunner().invoke(figures.main, ["--results", str(results), "--pictures", str(tmp_path)])
    assert done.exit_code == 0, done.output
    (axes,) = drawn["load.png"].axes
    assert list(axes.lines[0].get_xdata()) == [4, 5] and "abcdef0" in axes.get_title()
    assert list(drawn["ratios.png"].axes[0].get_legend_handles_labels()[1]) == ["two-pass, batch 4"]
    assert "abcdef0" in drawn["ratios.png"].get_suptitle()
    bars = [patch.get_width() for patch in drawn["waterfall.png"].axes[0].patches]
    assert sorted(bars) == [4.0, 6.0, 6.0, 15.0], "milliseconds, so that ways can be compared"


def test_the_page_of_tables_shows_the_last_machine_only(tmp_path: Path) -> None:
    results = tmp_path / "results"
    old = {"ok": False, "error": "old", "system": "ours", "rate": 1}
    Results(results / "load.jsonl", MACHINE | {"commit": "old"}).add("load", "x", old)
    new = {"ok": True, "system": "ours", "rate": 2, "goodput": 1.5, "share": 0.75, "objective_ms": 100.0}
    new |= {"p50": 40.0, "p95": 90.0, "p99": None, "corpus_per_s": 3.0}
    Results(results / "load.jsonl", MACHINE).add("load", "y", new)
    done = CliRunner().invoke(report.main, ["--results", str(results), "--out", str(tmp_path / "measured.md")])
    text = (tmp_path / "measured.md").read_text()
    assert done.exit_code == 0 and "| 2 | ours | 1.50 | 75% | 40 | 90 | over 100 | 3.00 |" in text
    assert "not timed" not in text and "commit abcdef012" in text and "## Ops" not in text


def test_ops_are_judged_and_timed(tmp_path: Path) -> None:
    rows = tmp_path / "ops.jsonl"
    options = ["--benchmark-only", "-q", "--rows", str(rows), "-p", "no:cacheprovider", "-p", "no:xdist"]
    command = [sys.executable, "-m", "pytest", "benchmarks", *options, "-k", "tte_tiny-S1/torch or tte_tiny-T1/"]
    # A worker of a parallel run says so in its environment, and benchmarks refuse to time anything there.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run([*command, "--benchmark-max-time=0.01"], cwd=ROOT, env=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {row["key"]: row for row in read_rows(rows)}
    assert {"pool_normalize/tte_tiny-S1/torch form", "rms_norm/tte_tiny-T1/F.rms_norm"} <= set(found)
    for row in found.values():
        assert row["copies"] >= 8 and row["gb_per_s"] == pytest.approx(row["bytes"] / row["us_p50"] / 1e3)
        assert row["share_of_bandwidth"] == pytest.approx(row["gb_per_s"] / row["ceiling_gb_per_s"])
    assert figures.draw_roofline(list(found.values()), tmp_path / "roof.png")


def test_every_technique_is_switched_off_or_says_why_not(tmp_path: Path) -> None:
    options = ["--rounds", "2", "--trace", "3", "--out", str(tmp_path / "a.jsonl")]
    done = CliRunner().invoke(ablation.main, options)
    assert done.exit_code == 0, done.output
    rows = {row["switch"]: row for row in read_rows(tmp_path / "a.jsonl")}
    assert list(rows) == [switch.name for switch in switches.SWITCHES]
    measured = [name for name, row in rows.items() if "sides" in row]
    assert {"one pass", "prefix cache", "prefix cache, long prompts", "vision cache", "compiled steps"} <= set(measured)
    assert all(len(rows[name]["sides"]["off"]["ms"]) == 2 for name in measured)
    assert "| CUDA graphs | one request | not applicable here: needs a GPU |" in done.stdout


def test_forms_of_the_torch_backend_are_measured_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ("merged weights", "packed weights")
    monkeypatch.setattr(ablation, "SWITCHES", [one for one in switches.SWITCHES if one.name in wanted])
    options = ["--rounds", "2", "--trace", "3", "--kernels", "torch", "--out", str(tmp_path / "a.jsonl")]
    done = CliRunner().invoke(ablation.main, options)
    assert done.exit_code == 0, done.output
    rows = read_rows(tmp_path / "a.jsonl")
    assert [(row["switch"], len(row["sides"]["off"]["ms"])) for row in rows] == [(name, 2) for name in wanted]
    assert all("/kernels=torch/" in row["key"] for row in rows) and "| merged weights, on torch |" in done.stdout


def test_a_technique_whose_loss_changes_the_vectors_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(runtime: Any, batch: list[Any], think: Any) -> list[Any]:
        return list(runtime.embedder.embed(batch, role="document", think=False))

    wrong = switches.Switch("wrong", switches.ONE, embed=other)
    monkeypatch.setattr(ablation, "SWITCHES", (wrong,))
    done = CliRunner().invoke(ablation.main, ["--rounds", "2", "--trace", "0", "--out", str(tmp_path / "a.jsonl")])
    (row,) = read_rows(tmp_path / "a.jsonl")
    assert done.exit_code == 1 and not row["ok"] and not row["sides"]
    assert "| wrong | one request | not timed, parity failed" in done.stdout


def test_the_last_stages_of_the_gpu_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_embed, "IMAGE", 16)
    monkeypatch.setattr(gpu_embed, "TRACE", 3)
    monkeypatch.setattr(gpu_embed, "SHORT", 1)
    monkeypatch.setattr(gpu_embed, "LONG", 3)
    stages = gpu_embed.EndToEnd(tmp_path, device="cpu", dtype="float32", steps={"tte-tiny": (1, 2)}, rounds=2)
    results = Results(tmp_path / "gpu.jsonl", MACHINE)
    for item in stages.items():
        assert results.add(item.stage, item.key, item.work())["ok"]
    stages.close()
    decode = results.stage("decode")
    assert [len(row["ms"]) for row in decode.values()] == [2, 2] and all(row["floor_ms"] > 0 for row in decode.values())
    text = gpu_embed.table(decode, results.stage("embed"))
    assert "tte-tiny/float32/batch=2" in text and "| two-pass |" in text
