"""The worked example of docs/training.md, command by command as it stands there. Minutes: `pytest -m slow`."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from own_data import make_data

from tte_runtime.training.examples import read_examples

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
COMMAND = re.compile(r"^\$ tte (.+)\n(.*)$", re.MULTILINE)


def commands() -> list[tuple[list[str], str]]:
    """Every command of the page that is shown with its output: its words, and the first line of that."""
    text = PAGE.read_text(encoding="utf-8").replace("\\\n    ", "")
    return [(shlex.split(words), first) for words, first in COMMAND.findall(text)]


@pytest.mark.slow
def test_the_worked_example(tmp_path: Path) -> None:
    found = commands()
    assert [words[1] for words, _ in found[:5]] == ["training", "traces", "reasoner", "embedder", "head"]
    means = []
    for words, first in found:
        done = subprocess.run(
            [sys.executable, "-m", "tte_runtime", *words], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        said = done.stdout.splitlines()
        if words[0] == "embed":
            assert json.loads(said[0])["trace"] == json.loads(first)["trace"]
            assert len(json.loads(said[0])["vector"]) == 192
        elif words[0] == "eval":
            means.append(float(said[-1].split()[1]))
        else:
            assert said[0] == first
    untrained, embedder, unified = means
    assert untrained < 15 and embedder > 30 and unified > 18  # 9.6, 47.0 and 24.8 where the page was written


def test_the_line_of_the_page_is_an_example(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    block = re.search(r"```json\n(.+?)```", text, re.DOTALL)
    assert block
    data = make_data(tmp_path / "data", pictures=False)
    (data / "pictures").mkdir()
    for name in ("1.png", "2.png"):
        (data / "pictures" / name).touch()
    (data / "data.jsonl").write_text(json.dumps(json.loads(block[1])) + "\n")
    (one,) = read_examples(data, positives=True)
    assert len(one.negatives) == 2 and one.query.traced
