"""benchmarks.rivals: the conversation with another process, what is left out and why, and a table of all."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks import rivals
from benchmarks.baselines import rival
from benchmarks.core.results import read_rows
from benchmarks.shapes import SHAPES, recipe_of
from benchmarks.ways import Loaded
from tte_runtime.models.checkpoint import find_folder

FAKE = "fake_rival"


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(find_folder("tte-tiny") / name, folder / name)
    torch.manual_seed(1)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 512}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    vocab = -(-len(AutoTokenizer.from_pretrained(folder)) // 64) * 64
    ids: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None}
    LlamaForCausalLM(LlamaConfig(vocab_size=vocab, **sizes, **heads, **ids)).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rival, "PACKAGE", "tests.benchmarks")
    monkeypatch.setattr(rivals, "RIVALS", {FAKE: "writes only"})


def run(text_folder: Path, out: Path, *rival: str, trace: str = "5") -> Any:
    options = [
        "--model",
        str(text_folder),
        "--prompt",
        "9",
        "--trace",
        trace,
        "--batch",
        "2",
        "--rounds",
        "2",
        "--out",
        str(out),
    ]
    return CliRunner().invoke(rivals.main, [*options, *rival])


def test_a_rival_takes_its_turns(text_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "rivals.jsonl"
    absent = ["--rival", FAKE, str(tmp_path / "no" / "python"), "x"]
    done = run(text_folder, out, "--rival", FAKE, sys.executable, str(text_folder), *absent)
    assert done.exit_code == 0, done.output
    (row,) = read_rows(out)
    assert row["same_tokens"] == {FAKE: 1.0} and set(row["rivals"][FAKE]) == {"torch"}
    assert list(row["ways"]) == ["ours", "two-pass", "one-pass", FAKE] and len(row["ways"][FAKE]["ms"]) == 2
    assert f"| {FAKE} | writes only |" in done.stdout and "is no Python: make the environment" in done.stderr
    assert "talk of an engine" not in done.stdout


def test_a_question_with_pictures(tmp_path: Path) -> None:
    loaded = Loaded(find_folder("tte-tiny"), recipe_of(SHAPES["tte-tiny"]), device="cpu", dtype="float32")
    items = rivals.make_items(batch=2, prompt=9, image=16)
    with loaded.steering.lengths(4) as think:
        question = rivals.question_of(loaded, items, think, tmp_path)
    loaded.close()
    pad = loaded.plain.model.config.image_token_id
    assert [ids.count(pad) for ids in question["prompts"]] == [1, 1] and question["trace"] == 4
    assert all(text.count("<|image_pad|>") == 1 for text in question["texts"])
    assert (
        all(Path(path).read_bytes()[:4] == b"\x89PNG" for path in question["images"]) and len(question["images"]) == 2
    )


def test_one_that_dies_or_fails_says_so(text_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(rival.RivalError, match="ended with status 7"):
        rival.Rival(FAKE, sys.executable, "nowhere")
    fake_one = rival.Rival(FAKE, sys.executable, str(text_folder))
    question = {"prompts": [[1, 2]], "texts": [""], "images": [], "trace": 13, "close": []}
    with pytest.raises(rival.RivalError, match="ValueError: thirteen"):
        fake_one.ask(question)
    assert len(fake_one.ask({**question, "trace": 2})["traces"][0]) == 2
    fake_one.close()


def test_an_unknown_rival_is_refused(text_folder: Path, tmp_path: Path) -> None:
    done = run(text_folder, tmp_path / "x", "--rival", "triton", sys.executable, "x")
    assert done.exit_code == 2 and "must be among" in done.stderr
