"""The whole of `tte train tiny`, in miniature: it runs, its parts are kept, a second call trains nothing,
the checkpoint loads.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

from tte_runtime.errors import OptionError
from tte_runtime.heads.reference import ReferenceHead
from tte_runtime.scenes.questions import KINDS
from tte_runtime.training.lessons import Round as HeadRound
from tte_runtime.training.tiny import Plan, train_tiny
from tte_runtime.training.tower import Round

MINIATURE = Plan(
    tower_rounds=(Round(2, 1e-3, 0.5),),
    tower_batch=2,
    bank_scenes=40,
    bank_renderings=1,
    held_out_scenes=40,
    reasoner_steps=2,
    reasoner_rows=1,
    head_rounds=(HeadRound(2, 1e-3, True, 1.0),),
    head_questions=4,
    tower_checks=8,
    reasoner_checks=1,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    train_tiny(out, seed=3, device="cpu", plan=MINIATURE)
    return out


def test_the_checkpoint_is_an_ordinary_folder_with_a_head(run: Path) -> None:
    folder = run / "tte-tiny"
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) <= model.config.text_config.vocab_size
    recipe = json.loads((folder / "tte.json").read_text())
    head = ReferenceHead.from_checkpoint(folder, model.config, recipe["head"]["weights"])
    assert len(head.layers) == recipe["head"]["num_layers"]
    for token in (*recipe["stop"], *recipe["close"], *recipe["suffix"]):
        assert len(tokenizer(token).input_ids) == 1
    assert sum(file.stat().st_size for file in folder.iterdir()) < 16e6


def test_the_traces_can_be_read(run: Path) -> None:
    lines = (run / "stages" / "traces" / "traces.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert {entry["kind"] for entry in entries} == set(KINDS)
    assert all(entry["trace"].startswith("<think> ") for entry in entries)


def test_a_finished_run_is_not_trained_again_and_gives_the_same_weights(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = run / "tte-tiny" / "model.safetensors"
    before = weights.read_bytes(), (run / "tte-tiny" / "head.safetensors").read_bytes()
    capsys.readouterr()
    train_tiny(run, seed=3, device="cpu", plan=MINIATURE)
    talk = capsys.readouterr()
    assert "step" not in talk.err and talk.out == ""
    assert before == (weights.read_bytes(), (run / "tte-tiny" / "head.safetensors").read_bytes())


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="unknown stages"):
        train_tiny(tmp_path, stages=["dream"], plan=MINIATURE)
    with pytest.raises(OptionError, match="seed must be in"):
        train_tiny(tmp_path, seed=-1, plan=MINIATURE)
    with monkeypatch.context() as without_gpu, pytest.raises(OptionError, match="torch sees no CUDA device"):
        without_gpu.setattr(torch.cuda, "is_available", lambda: False)
        train_tiny(tmp_path, device="cuda", plan=MINIATURE)
    with pytest.raises(OptionError, match="left out"):
        train_tiny(tmp_path, stages=["head"], plan=MINIATURE)
