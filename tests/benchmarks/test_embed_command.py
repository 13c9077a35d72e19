"""benchmarks.embed: judged before timed, resumed where it stopped, and a real run of every way on the bundled model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import embed, ways
from benchmarks.core.contest import contest, figures
from benchmarks.core.results import read_rows
from benchmarks.floor import Ceilings, Sizes, floor_ms
from benchmarks.shapes import SHAPES, Shape, folder_of, recipe_of
from benchmarks.ways import Loaded
from benchmarks.workload import make_batch
from tte_runtime.evaluation.compare import Arm

TEXT: dict[str, Any] = {
    **dict(SHAPES["qwen2vl-small"].text),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.2,
    "vocab_size": 1024,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
}
VISION = {"depth": 1, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 2, "hidden_size": 64, "patch_size": 14}
SMALL = Shape("small", "Qwen2VL", tuple(TEXT.items()), tuple(VISION.items()), tied=False)


def run(out: Path, *arguments: str) -> Any:
    options = ["--trace", "3", "--rounds", "2", "--out", str(out)]
    return CliRunner().invoke(embed.main, [*options, *arguments])


def test_a_real_run_and_the_same_command_again(tmp_path: Path) -> None:
    out = tmp_path / "embed.jsonl"
    done = run(out, "--ways", "ours,two-pass,one-pass,flash", "--batch", "1,2")
    assert done.exit_code == 0, done.output
    rows = read_rows(out)
    assert [row["cell"]["batch"] for row in rows] == [1, 2] and all(row["ok"] for row in rows)
    found = rows[0]["ways"]
    assert list(found) == ["ours", "two-pass", "one-pass"] and "flash-attn" in rows[0]["missing"]["flash"]
    assert all(len(way["ms"]) == 2 and way["same_traces"] == 1 for way in found.values())
    assert found["two-pass"]["computed"] > found["one-pass"]["computed"] == found["ours"]["computed"]
    assert found["ours"]["ratio"] == [1, 1, 1] and set(rows[0]["breakdown"]) == set(found)
    assert sum(rows[0]["floor_ms"].values()) / found["ours"]["p50"] == pytest.approx(found["ours"]["floor_share"])
    assert "| two-pass |" in done.stdout and "flash is left out" in done.stderr and not rows[1]["breakdown"]
    assert run(out, "--ways", "ours,two-pass,one-pass,flash", "--batch", "1,2").stdout == done.stdout
    assert read_rows(out) == rows


def test_16_bits_which_a_gpu_has_by_itself(tmp_path: Path) -> None:
    done = run(tmp_path / "embed.jsonl", "--ways", "ours,two-pass", "--dtype", "bfloat16")
    assert done.exit_code == 0, done.output
    (row,) = read_rows(tmp_path / "embed.jsonl")
    assert row["ok"] and "bfloat16" in row["key"]


def test_no_time_where_parity_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "TOLERANCE", -1.0)
    done = run(tmp_path / "embed.jsonl", "--ways", "ours,two-pass")
    assert done.exit_code == 1
    (row,) = read_rows(tmp_path / "embed.jsonl")
    assert not row["ok"] and not row["breakdown"] and all("ms" not in way for way in row["ways"].values())
    assert done.stdout.count("not timed, parity failed") == 2


def test_every_way_agrees_on_random_weights_with_a_head(tmp_path: Path) -> None:
    folder = folder_of(SMALL, tmp_path, image_tokens=6, device="cpu", dtype=torch.float32)
    assert folder_of(SMALL, tmp_path, image_tokens=6, device="cpu", dtype=torch.float32) == folder
    loaded = Loaded(folder, recipe_of(SMALL, head=True), device="cpu", dtype="float32")
    found, _ = loaded.ways(["ours", "two-pass", "one-pass", "two-models"])
    batch = make_batch(SMALL, 6, 3)
    with loaded.steering.lengths(5) as think:
        traces = loaded.traces(batch, think)
        failures, errors = loaded.judge(found, batch, traces)
        assert not failures and len(errors) == 4
        assert {len(trace) for trace in traces} == {5}
        for way in found.values():
            way.before()
            assert [result.trace_ids for result in way.embed(batch, think)] == traces
    wanted, _ = loaded.reference(batch, traces, bare=False)
    other, _ = loaded.reference(batch, [trace[::-1] for trace in traces], bare=False)
    assert np.abs(wanted - other).max() > 1e-3, "another trace must give another vector, or parity proves nothing"
    loaded.close()


@pytest.mark.parametrize(("tokens", "size"), [(16, (112, 112)), (64, (224, 224)), (6, (84, 56)), (7, (196, 28))])
def test_pictures_have_the_tokens_that_are_asked_for(tokens: int, size: tuple[int, int]) -> None:
    batch = make_batch(SHAPES["tte-tiny"], tokens, 9)
    assert {item["image"].size for item in batch} == {size}
    assert len({item["text"] for item in batch}) == 9
    assert [item["text"] for item in make_batch(SHAPES["tte-tiny"], tokens, 9)] == [item["text"] for item in batch]


def test_a_failure_is_not_timed_nor_is_the_first_alone() -> None:
    calls: list[str] = []
    arms = [Arm(name, lambda item, name=name: calls.append(name)) for name in "abc"]
    ms = contest(arms, None, {"b": "off"}, rounds=3)
    assert list(ms) == ["a", "c"] and len(ms["a"]) == 3 and calls == ["a", "c"] * 2 + ["c", "a", "a", "c"]
    assert contest(arms, None, {"b": "off", "c": "off"}, rounds=3) == {}
    assert contest(arms, None, {"a": "off"}, rounds=3) == {} == figures({})
    found = figures({"ours": (1.0, 2.0, 3.0), "theirs": (2.0, 4.0, 6.0)})
    assert found["theirs"]["ratio"] == [2.0, 2.0, 2.0] and found["ours"]["p50"] == 2.0


def test_the_floor_counts_bytes_and_products() -> None:
    sizes = Sizes(1000, 500, 200, 100, 2, 8, 1, 4, 16, 4, 2)
    slow_memory = floor_ms(sizes, Ceilings(1e-6, 1e9), batch=1, prompt=10, image=4, trace=3)
    assert slow_memory["prefill"] == pytest.approx(1000 * 2) and slow_memory["vision"] == pytest.approx(200 * 2)
    assert slow_memory["decode"] == pytest.approx(3 * 2 * (1500 + 11.5 * 16)) and slow_memory["readout"] == 200
    slow_sums = floor_ms(sizes, Ceilings(1e9, 1e-9), batch=2, prompt=10, image=0, trace=0)
    assert slow_sums["prefill"] == pytest.approx(2 * (2 * 1000 * 10 + 4 * 10 * 5 * 2 * 8))
    assert slow_sums["decode"] == slow_sums["vision"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ways", "two-pass"], "must begin with ours"),
        (["--ways", "ours,magic"], "must begin with ours and be among"),
        (["--image", "many"], "no whole number"),
        (["--batch", "0"], "at least 1"),
        (["--shape", "gpt"], "is not one of"),
    ],
)
def test_what_is_refused(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = run(tmp_path / "x.jsonl", *arguments)
    assert done.exit_code == 2 and words in done.stderr and not done.stdout
