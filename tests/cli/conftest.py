"""A folder of pictures and texts, and `tte` as a function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tte_runtime.cli import main
from tte_runtime.scenes.pictures import picture

Tte = Callable[..., Result]


@pytest.fixture
def tte(monkeypatch: pytest.MonkeyPatch) -> Tte:
    """Run `tte` in this process: `tte("embed", "hello", input="")` -> exit code, stdout, stderr."""
    monkeypatch.delenv("TTE_TRACEBACK", raising=False)

    def run(*words: str | Path, input: str | None = None) -> Result:
        return CliRunner().invoke(main, [str(word) for word in words], input=input, prog_name="tte")

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """cat.png, sub/dog.png, note.txt, and things that are not indexed."""
    root = tmp_path / "things"
    (root / "sub").mkdir(parents=True)
    picture("cat").convert("RGB").save(root / "cat.png")
    picture("dog").convert("RGB").save(root / "sub" / "dog.png")
    (root / "note.txt").write_text("pizza")
    (root / "table.csv").write_text("1,2")
    (root / ".hidden.txt").write_text("no")
    return root
