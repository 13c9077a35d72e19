"""`tte export scenes`, then `tte eval mmeb`: data on stdout, talk on stderr, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Tte = Callable[..., Result]
QUICK = ("--no-think", "--datasets", "scenes_ground", "--datasets", "scenes_category")


def test_export_then_evaluate(tte: Tte, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    done = tte("export", "scenes", data, "--per-kind", "2", "--pool", "1")
    assert done.exit_code == 0, done.stderr
    assert "scenes_ground" in done.stdout.splitlines()
    done = tte("eval", "mmeb", data, "--out", out, "--limit", "1", *QUICK)
    assert done.exit_code == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows if row[1:2] == ["hit@1"]] == ["scenes_category", "scenes_ground"]
    assert "no score of MMEB-V2" in done.stdout
    report = json.loads((out / "tte-tiny.json").read_text())
    made = report["metadata"]["tte_runtime"]
    assert (made["recipe"], made["think"], made["limit"]) == ("tte_u", False, 1)
    assert report["metadata"]["embedding_dimension"] == 192
    assert report["metrics"]["own"]["scenes_ground"]["num_data"] == 1

    row = json.loads((data / "ziyjiang/MMEB_Test_Instruct/scenes_ground/test.jsonl").read_text().split("\n")[1])
    (data / "image-tasks" / row["qry_img_path"]).unlink()
    (data / "ziyjiang/MMEB_Test_Instruct/scenes_category/test.jsonl").write_text("{")
    done = tte("eval", "mmeb", data, "--out", out, *QUICK)
    assert done.exit_code == 1
    assert "scenes_ground, query 1:" in done.stderr
    assert "1 items failed" in done.stdout
    assert "scenes_category: left out." in done.stderr
    assert "could not be read" in done.stdout


def test_what_is_wrong_is_said_before_a_model_is_loaded(tte: Tte, tmp_path: Path) -> None:
    lost = tte("eval", "mmeb", tmp_path / "lost", "--out", tmp_path / "out", "--model", "no-such-model")
    assert (lost.exit_code, lost.stdout) == (2, "")
    assert "lost is no folder" in lost.stderr
    both = tte("eval", "mmeb", tmp_path, "--out", tmp_path / "out", "--no-think", "--max-trace-tokens", "3")
    assert both.exit_code == 2
    assert "--no-think leaves nothing to limit" in both.stderr
    full = tte("export", "scenes", tmp_path.parent, "--per-kind", "1", "--pool", "1")
    assert full.exit_code == 2
    assert "is not empty" in full.stderr
    assert not (tmp_path / "out").exists()
