"""`tte demo` from end to end on the bundled model, small; exit codes and what goes where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tte_runtime.demo import gallery, measuring
from tte_runtime.demo.command import demo
from tte_runtime.errors import OptionError
from tte_runtime.evaluation import scenes
from tte_runtime.evaluation.compare import Comparison, Measured, Parity

SMALL = ["--gallery", "1", "--questions", "1", "--repetitions", "1"]


@pytest.fixture(autouse=True)
def few_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers and some ten others: the whole gallery takes longer than it tells."""
    whole = gallery.make_gallery

    def few(tests: list[scenes.Test], size: int, seed: int) -> list[scenes.Document]:
        documents = whole(tests, size, seed)
        return [d for i, d in enumerate(documents) if i < 10 or any(gallery.is_answer(t, d) for t in tests)]

    monkeypatch.setattr(gallery, "make_gallery", few)


def test_the_demo_runs_and_writes_its_page(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    done = CliRunner().invoke(demo, [*SMALL, "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0
    assert "held-out documents embedded" in done.stdout and "trace" in done.stdout
    assert done.stdout.count("times as long") == 2
    assert "embedding" in done.stderr and str(out) in done.stderr
    assert "<code>tte demo --gallery 1 --questions 1 --repetitions 1</code>" in out.read_text(encoding="utf-8")


def test_failed_parity_is_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disagree(*args: Any, **options: Any) -> Comparison:
        good, bad = Parity(1, 1, 0.0, 1e-5), Parity(0, 1, 0.1, 1e-5)
        names = (measuring.OURS, measuring.TWO_PASSES, measuring.ONE_PASS)
        return Comparison(tuple(Measured(name, bad if i else good, (), 1) for i, name in enumerate(names)))

    monkeypatch.setattr(measuring, "compare_with_plain", disagree)
    out = tmp_path / "page.html"
    done = CliRunner().invoke(demo, [*SMALL, "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 1
    assert "NOT COMPARED" in done.stdout and "times as long" not in done.stdout
    assert out.is_file()


def test_a_page_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    for out in (tmp_path, tmp_path / "missing" / "page.html"):
        with pytest.raises(OptionError, match="must be a file in a folder that exists"):
            CliRunner().invoke(demo, ["--out", str(out)], catch_exceptions=False)
