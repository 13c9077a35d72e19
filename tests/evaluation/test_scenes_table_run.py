"""The scenes table is run: what is done is kept, what is missing is named, and what is wrong is said at the door."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tte_runtime import Embedder
from tte_runtime.cli import main
from tte_runtime.errors import CheckpointError
from tte_runtime.evaluation.arms import assemble
from tte_runtime.evaluation.scenes_table.asking import Scenes
from tte_runtime.evaluation.scenes_table.report import report
from tte_runtime.evaluation.scenes_table.rows import json_of
from tte_runtime.evaluation.scenes_table.run import Plan, SeedResult, run_seed
from tte_runtime.evaluation.scenes_table.summary import Summary
from tte_runtime.evaluation.scenes_table.systems import choose_probes

KEPT = ("decoder_layers", "tte_t", "direct")


def stand_in(folder: Path, seed: int, arm: str, out: Path, /) -> Path:
    """The bundled model for every arm but one, with the recipe that the arm would have."""
    if arm == "direct":
        raise CheckpointError("direct.npz is missing.")
    whole = assemble(folder, 0, "decoder_layers", out)
    if arm == "embedder":
        entry = json.loads((whole / "tte.json").read_text())
        own = {key: entry[key] for key in ("roles", "stop", "close", "suffix", "max_trace_tokens")}
        (whole / "tte.json").write_text(json.dumps({"recipe": "tte_s", **own}))
    return whole


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    scenes = Scenes.make(3, seed=2, limit=2, pool_size=1)
    out = tmp_path_factory.mktemp("table")
    return Plan(out, stand_in, out, choose_probes([*KEPT, "controls"]), scenes, part=1, timed=1)


@pytest.fixture(scope="module")
def summary(plan: Plan) -> Summary:
    return Summary(plan.scenes, plan.part, [run_seed(plan, 0)], plan.probes)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many items every call of `Embedder.embed` was given, while the test runs."""
    calls: list[int] = []
    whole = Embedder.embed

    def counting(self: Embedder, items: Any, **options: Any) -> Any:
        calls.append(len(items) if isinstance(items, list) else 1)
        return whole(self, items, **options)

    monkeypatch.setattr(Embedder, "embed", counting)
    yield calls


def test_a_run_has_every_row_and_names_what_is_missing(summary: Summary) -> None:
    rows = {row["row"]: row for row in json_of(summary)["rows"]}
    assert set(rows) == {probe.key for probe in summary.probes if probe.system.name != "direct"}
    assert list(summary.missing) == [(0, "direct")]
    assert rows["decoder_layers"]["questions"] == 20 and rows["decoder_layers@4"]["questions"] == 9
    told = rows["decoder_layers"]["cost"]
    assert len(told["ms"]) == 9 and told["trace"] > 3 and told["computed"] == told["head"] > told["trace"]
    assert rows["decoder_layers@0"]["cost"]["trace"] == 0 and rows["tte_t"]["cost"]["head"] == 0
    assert rows["decoder_layers+filler"]["cost"] is None
    figures = json_of(summary)["figures"]
    assert figures["decoder_layers+teacher"]["answer_in_trace"]["all"][0] == 1.0
    assert figures["decoder_layers+other_trace"]["answer_in_trace"]["all"][0] == 0.0
    assert figures["decoder_layers"]["hit_at_1"]["all"][0] > figures["decoder_layers+filler"]["hit_at_1"]["all"][0]


def test_the_report_says_what_each_row_is(summary: Summary) -> None:
    text = report(summary)
    assert "18 held-out questions (2 of each of 9 kinds) and 2 of three_step" in text
    assert "- seed 0, direct: direct.npz is missing." in text
    for heading in ("Hit@1, %", "Hit@1 by kind, %", "One step more", "What a question costs", "Hit@1 over", "Controls"):
        assert f"## {heading}" in text
    assert "points more than" not in text  # neither of the two that rows are held against is there


def test_a_system_alone_is_not_held_against_itself(plan: Plan, summary: Summary) -> None:
    alone = SeedResult(0, answers={"direct": summary.seeds[0].answers["decoder_layers"]})
    text = report(Summary(plan.scenes, plan.part, [alone], choose_probes(["direct"])))
    assert "## Hit@1, %" in text and "points more than" not in text


def test_what_is_done_is_not_done_again(plan: Plan, summary: Summary, asked: list[int], tmp_path: Path) -> None:
    again = run_seed(plan, 0)
    assert asked == []
    before = summary.seeds[0]
    assert again.costs == before.costs
    assert all((again.answers[key].best == answers.best).all() for key, answers in before.answers.items())

    shutil.copytree(plan.out / "seed-0", tmp_path / "seed-0")
    (tmp_path / "seed-0" / "tte_t.npz").unlink()
    lost = tmp_path / "seed-0" / "decoder_layers+filler.npz"
    lost.write_bytes(lost.read_bytes()[:100])
    moved = replace(plan, out=tmp_path)
    run_seed(moved, 0)
    assert asked == [20, 20]  # the row that was lost, and the one that was cut off
    asked.clear()
    probes = choose_probes(["tte_t"])
    run_seed(replace(moved, probes=probes, timed=0, scenes=replace(plan.scenes, digest="other")), 0)
    assert asked == [len(plan.scenes.pool), 20]  # other questions: nothing kept counts


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["eval", "scenes", *map(str, words)], prog_name="tte")


def test_the_command_prints_a_table_and_its_exit_code_tells_of_missing_arms(tmp_path: Path) -> None:
    (tmp_path / "arms" / "seed0").mkdir(parents=True)  # seed 0's unified model is the bundled one
    few = ("--arms", tmp_path / "arms", "--out", tmp_path / "out", "--per-kind", "2", "--timed-per-kind", "0")
    done = run(*few, "--systems", "direct")
    assert done.exit_code == 1, done.stderr
    assert "direct.npz is missing" in done.stdout and "seed 0, direct: left out" in done.stderr
    assert (tmp_path / "out" / "scenes.jsonl").read_text() == ""


def test_what_is_wrong_is_said_before_anything_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "seed1").mkdir()
    for words, told in (
        (("--arms", tmp_path, "--systems", "tte_x"), "unknown system 'tte_x'"),
        (("--arms", tmp_path / "lost"), "Give a clone's benchmarks/arms"),
        (("--arms", tmp_path, "--seeds", "7"), "no arms of seed 7"),
        (("--arms", tmp_path, "--per-kind", "1"), "--per-kind"),
    ):
        done = run(*words, "--out", tmp_path / "out")
        assert (done.exit_code, done.stdout) == (2, ""), done.stderr
        assert told in done.stderr and "drawing" not in done.stderr
    assert not (tmp_path / "out").exists()
