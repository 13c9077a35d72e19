"""The command line as a whole: help, unknown words, `tte env`, `tte train`, and the page that is made of the help."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tte_runtime import Embedder, __version__
from tte_runtime.cli import main
from tte_runtime.env import VARIABLES
from tte_runtime.recipes.registry import NAMES

ROOT = Path(__file__).parents[2]
Tte = Callable[..., Result]


def test_the_page_is_what_the_help_says() -> None:
    spec = importlib.util.spec_from_file_location("docs_cli", ROOT / "docs" / "cli.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == module.render(), "run `make docs`"


def test_without_a_command_help_is_printed(tte: Tte) -> None:
    assert tte().exit_code == 0
    assert "Commands:" in tte().stdout
    assert "build" in tte("index").stdout
    assert tte("--version").stdout == f"tte-runtime {__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["embbed"], f"error: unknown command 'embbed'. Known: {', '.join(sorted(main.commands))}."),
        (["--verbos"], "error: unknown option '--verbos'. Known: --help, --version."),
        (["index", "find"], "error: unknown command 'find'. Known: build, search."),
        (["index", "build", "x"], "error: Missing option '--out'. See: tte index build --help"),
        (["train", "huge"], "error: unknown command 'huge'. Known: embedder, head, reasoner, tiny, traces."),
    ],
)
def test_unknown_words_are_refused_with_the_known_ones(tte: Tte, words: list[str], said: str) -> None:
    done = tte(*words)
    assert (done.exit_code, done.stdout, done.stderr.strip()) == (2, "", said)


def test_python_m_is_tte() -> None:
    done = subprocess.run([sys.executable, "-m", "tte_runtime", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("Usage: tte [OPTIONS]")


def test_env_says_what_runs(tte: Tte, tiny: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    plain = tte("env").stdout
    assert "torch" in plain
    assert all(variable.name in plain for variable in VARIABLES)
    found = json.loads(tte("env", "--model", "tte-tiny", "--json").stdout)
    assert found["tte-runtime"] == __version__
    assert found["engine"] == tiny.config.describe()
    pages = tiny._pipeline.engine.runner.num_bytes / 2**20
    assert found["memory"] == f"pages {pages:.1f} MiB, graphs 0.0 MiB"
    assert found["fingerprint"] == tiny.fingerprint
    assert found["OMP_NUM_THREADS"] == "1"


def test_the_traceback_is_there_for_those_who_ask(tte: Tte, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("embed", "a", "--out", "v.txt")
    assert isinstance(tte(*words).exception, SystemExit)
    monkeypatch.setenv("TTE_TRACEBACK", "1")
    assert isinstance(tte(*words).exception, ValueError)


def test_train_tiny_hands_its_options_over(tte: Tte, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tte_runtime.training import tiny

    seen: dict[str, object] = {}

    def train_tiny(out: Path, **options: object) -> Path:
        seen.update(options)
        return out / "tte-tiny"

    monkeypatch.setattr(tiny, "train_tiny", train_tiny)
    done = tte("train", "tiny", "--out", tmp_path, "--seed", "3", "--stage", "tower")
    assert done.stdout == f"{tmp_path / 'tte-tiny'}\n"
    assert seen == {"seed": 3, "stages": ("tower",), "device": "auto"}
    assert ", ".join(tiny.STAGES) in " ".join(tte("train", "tiny", "--help").stdout.split())


def test_recipes(tte: Tte) -> None:
    listed = tte("recipes").stdout.splitlines()
    assert listed[0].split() == ["name", "what", "thinks", "on", "read", "at", "found", "by"]
    assert [line.split()[0] for line in listed[1:]] == list(NAMES)
    rge = json.loads(tte("recipes", "rge").stdout)
    assert (rge["recipe"], rge["stop"], rge["max_trace_tokens"]) == ("rge", ["<emb>"], 128)
    assert [json.loads(line)["recipe"] for line in tte("recipes", "--json").stdout.splitlines()] == list(NAMES)
    assert json.loads(tte("recipes", "--model", "tte-tiny").stdout)["readout"] == "head"
    for words, said in (
        (["rgb"], "error: unknown recipe 'rgb'. Known: tte_u"),
        (["rge", "--json"], "error: give a NAME, or --model"),
        (["--model", "nowhere"], "error: 'nowhere' is no folder"),
    ):
        refused = tte("recipes", *words)
        assert refused.exit_code == 2 and refused.stderr.startswith(said)
