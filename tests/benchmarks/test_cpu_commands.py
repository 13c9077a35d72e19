"""benchmarks.cpu, benchmarks.formats and benchmarks.tiny: parity before time, a line a way, and what they write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks import cpu, formats, host, tiny
from tte_runtime.models.checkpoint import find_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small random Llama with a tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=832,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=False,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    AutoTokenizer.from_pretrained(find_folder("tte-tiny")).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


@pytest.fixture(autouse=True)
def threads() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(folder: Path, out: Path) -> tuple[int, list[dict]]:
    arguments = [str(folder), "--prompt", "9", "--trace", "6", "--rounds", "2", "--threads", "1", "--out", str(out)]
    done = CliRunner().invoke(cpu.main, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    assert len(done.stdout.splitlines()) == 2 + 5
    return done.exit_code, [json.loads(line) for line in out.read_text().splitlines()]


def test_cpu_compares_five_ways(folder: Path, tmp_path: Path) -> None:
    status, rows = run(folder, tmp_path / "cpu.jsonl")
    by_way = {row["way"]: row for row in rows}
    assert status == 0
    assert by_way["ours float32"]["max_error"] < 1e-5
    assert by_way["ours float32"]["same_tokens"] == 6
    assert all(len(row["rates"]) == len(row["totals"]) == 2 for row in rows)


def test_cpu_times_nothing_that_is_too_far_off(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cpu.LEAST_COSINE, "w8a8", 1.1)
    status, rows = run(folder, tmp_path / "cpu.jsonl")
    assert status == 1
    assert [row["way"] for row in rows if not row["rates"]] == ["ours w8a8"]


def test_formats_gives_loss_and_time_of_each(tmp_path: Path) -> None:
    out = tmp_path / "formats.jsonl"
    arguments = ["--per-kind", "1", "--pool", "1", "--rounds", "1", "--out", str(out)]
    done = CliRunner().invoke(formats.main, arguments)
    assert done.exit_code == 0, done.output
    rows = {row["key"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert list(rows) == list(formats.FORMATS)
    assert rows["float32"]["cosine_least"] > 0.99999
    assert rows["float32"]["same_traces"] == 1
    for row in rows.values():
        assert row["cosine_of_same_traces"] > 0.95 and len(row["ms"]) == 1 and row["ms"][0] > 0


def test_tiny_compares_ours_with_both_kinds_of_plain(tmp_path: Path) -> None:
    out = tmp_path / "tiny.jsonl"
    arguments = ["--per-kind", "1", "--rounds", "1", "--threads", "1", "--out", str(out)]
    done = CliRunner().invoke(tiny.main, arguments)
    assert done.exit_code == 0, done.output
    rows = {row["key"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert len(rows) == 3
    assert all(row["max_error"] < 1e-5 and len(row["seconds"]) == 1 for row in rows.values())


def test_the_host_is_timed_by_rows(tmp_path: Path) -> None:
    out = tmp_path / "host.jsonl"
    done = CliRunner().invoke(host.main, ["--rows", "1,3", "--steps", "5", "--out", str(out)])
    assert done.exit_code == 0, done.output
    rows = {row["key"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert set(rows) == {"rows=1", "rows=3"} and all(len(row["seconds"]) == 5 for row in rows.values())
    assert done.stdout.count("\n") == 4 and "us a step" in done.stdout
