"""`tte embed --reasoner --traces`, `tte index` with a store, and `tte traces`, on the bundled model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from fake_endpoint import FakeEndpoint

from tte_runtime.cli import main

QUICK = ("--role", "query", "--max-trace-tokens", "4")


def tte(*words: str | Path, input: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], input=input, prog_name="tte")


def rows(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_traces_are_kept_exported_and_imported(tmp_path: Path) -> None:
    store, other, lines = tmp_path / "a.sqlite", tmp_path / "b.sqlite", tmp_path / "t.jsonl"
    first = tte("embed", "what?", "who?", *QUICK, "--traces", store)
    assert [row["trace_from"] for row in rows(first)] == ["written", "written"], first.stderr
    exported = tte("traces", "export", lines, "--traces", store)
    assert (exported.exit_code, exported.stdout) == (0, "") and "2 traces exported" in exported.stderr
    imported = tte("traces", "import", lines, "--traces", other)
    assert imported.exit_code == 0 and "2 traces imported" in imported.stderr
    again = tte("embed", "what?", "who?", *QUICK, "--traces", other)
    assert [row["trace_from"] for row in rows(again)] == ["stored", "stored"]
    for old, new in zip(rows(first), rows(again), strict=True):
        assert old["trace"] == new["trace"] and old["trace"] in again.stderr
        np.testing.assert_allclose(old["vector"], new["vector"], atol=1e-5)
    piped = tte("traces", "export", "-", "--traces", other)
    assert piped.stdout == lines.read_text(encoding="utf-8")


def test_a_trace_of_ones_own_in_a_line(tmp_path: Path) -> None:
    lines = [{"text": "what?", "trace": "a cat"}, {"text": "what?", "trace": ""}]
    done = tte("embed", "--jsonl", "-", *QUICK, input="\n".join(map(json.dumps, lines)))
    good, bad = rows(done)
    assert (good["trace"], good["trace_from"]) == ("a cat", "given")
    assert done.exit_code == 1 and '"trace" is empty' in bad["error"]


def test_a_checkpoint_and_an_endpoint_as_reasoner(tmp_path: Path) -> None:
    store = tmp_path / "t.sqlite"
    local = tte("embed", "what?", *QUICK, "--reasoner", "tte-tiny")
    assert rows(local)[0]["trace_from"] == "written" and rows(local)[0]["counts"]["trace"] == 0
    with FakeEndpoint() as endpoint:
        words = ("embed", "what?", *QUICK, "--reasoner", endpoint.url, "--reasoner-model", "m", "--traces", store)
        assert rows(tte(*words))[0]["trace"].startswith("<think>0 pictures")
    down = tte(*words)
    assert (down.exit_code, rows(down)[0]["trace_from"]) == (0, "stored")
    failed = tte(*(word if word != "what?" else "who?" for word in words))
    assert failed.exit_code == 1 and rows(failed)[0]["error"].startswith("ReasonerError: ")
    followed = tte("embed", "--text", "who?", *words[2:])
    assert followed.exit_code == 1 and rows(followed)[0]["error"].startswith("ReasonerError: ")


def test_an_index_is_thought_about_once(tmp_path: Path) -> None:
    folder, store = tmp_path / "docs", tmp_path / "t.sqlite"
    folder.mkdir()
    for name in ("cat", "dog"):
        (folder / f"{name}.txt").write_text(name)
    for out in ("one", "two"):
        done = tte("index", "build", folder, "--out", tmp_path / out, "--max-trace-tokens", "4", "--traces", store)
        assert done.exit_code == 0, done.stderr
    exported = tte("traces", "export", "-", "--traces", store)
    assert len(exported.stdout.splitlines()) == 2
    found = tte("index", "search", tmp_path / "two", "cat", "--max-trace-tokens", "4", "--traces", store, "--json")
    assert len(json.loads(found.stdout)["hits"]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["embed", "a", "--reasoner", "http://h/v1"], "--reasoner-model NAME belong together"),
        (["embed", "a", "--reasoner", "tte-tiny", "--reasoner-model", "m"], "belong together"),
        (["embed", "a", "--reasoner", "nowhere", "--role", "query"], "is no folder, no bundled checkpoint"),
        (["embed", "a", "--role", "query", "--traces", "no/such/t.sqlite"], "there is no folder"),
        (["embed", "a", "--role", "query", "--traces", "bad.sqlite"], "broken or no database"),
        (["traces", "export", "out.jsonl", "--traces", "none.sqlite"], "there is no trace store none.sqlite"),
        (["traces", "import", "none.jsonl"], "none.jsonl"),
        (["traces", "import", "bad.sqlite", "--traces", "new.sqlite"], "line 1 is no JSON"),
        (["traces", "steal"], "Known: export, import"),
    ],
)
def test_refusals_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.sqlite").write_text("no database " * 999)
    done = tte(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and said in last
    assert not Path("out.jsonl").exists()
