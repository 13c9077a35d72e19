"""What benchmark commands say of bad input: one line, exit code 2, before any work and with nothing written."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

REFUSED = [
    ("embed", ["--device", "toaster"], "toaster"),
    ("embed", ["--dtype", "int3"], "int3"),
    ("embed", ["--trace", "5000"], "trace of 5000"),
    ("embed", ["--image", "16,3000", "--trace", "0"], "picture of 3000"),
    ("embed", ["--out", "FOLDER"], "is a directory"),
    ("embed", ["--out", "PROSE"], "line 1 is not JSON"),
    ("embed", ["--out", "PICTURE"], "is no text"),
    ("ablation", ["--device", "toaster"], "toaster"),
    ("ablation", ["--kernels", "magic"], "magic"),
    ("ablation", ["--kernels", "triton"], "triton"),
    ("ablation", ["--trace", "5000"], "trace of 5000"),
    ("compare", ["PROSE", "PROSE"], "line 1 is not JSON"),
    ("cpu", ["FOLDER"], "no config.json"),
    ("cpu", ["FOLDER", "--out", "FOLDER"], "is a directory"),
    ("figures", ["--results", "RESULTS"], "line 1 is not JSON"),
    ("formats", ["--out", "PROSE", "--per-kind", "1", "--pool", "1"], "line 1 is not JSON"),
    ("report", ["--results", "RESULTS"], "line 1 is not JSON"),
    ("rivals", ["--model", "FOLDER"], "no config.json"),
    ("rivals", ["--rival", "magic", "python", "model"], "magic"),
    ("scenes", ["--results", "FOLDER"], "is a directory"),
    ("scenes", ["--results", "PROSE"], "line 1 is not JSON"),
    ("scenes", ["--results", "OTHER"], "row 1"),
    ("thinking", ["--per-kind", "0"], "0"),
    ("thinking", ["--pool", "0"], "0"),
    ("tiny", ["--threads", "a"], "'a'"),
    ("tiny", ["--threads", "1,0"], "'0'"),
    ("tiny", ["--out", "PROSE"], "line 1 is not JSON"),
]


@pytest.mark.parametrize(("command", "arguments", "words"), REFUSED)
def test_bad_input_is_one_line(tmp_path: Path, command: str, arguments: list[str], words: str) -> None:
    (tmp_path / "results").mkdir()
    files = {"PROSE": tmp_path / "prose.md", "OTHER": tmp_path / "other.jsonl", "PICTURE": tmp_path / "x.png"}
    names: dict[str, Any] = {**files, "FOLDER": tmp_path / "folder", "RESULTS": tmp_path / "results"}
    names["FOLDER"].mkdir()
    files["PROSE"].write_text("# Not rows\n")
    (tmp_path / "results" / "embed.jsonl").write_text("# Not rows\n")
    files["OTHER"].write_text('{"stage": "embed", "key": "x"}\n')
    files["PICTURE"].write_bytes(b"\x89PNG\r\n\xff\xfe")
    before = {path: path.read_bytes() for path in files.values()}
    words_of = [str(names.get(word, word)) for word in arguments]
    if "--out" not in words_of and command not in ("compare", "figures", "scenes"):
        words_of += ["--out", str(tmp_path / "out.jsonl")]
    if command in ("figures", "scenes"):
        words_of += ["--pictures" if command == "figures" else "--picture", str(tmp_path / "drawn")]
    done = CliRunner().invoke(import_module(f"benchmarks.{command}").main, words_of)
    assert done.exit_code == 2 and not done.stdout, (done.output, done.exception)
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1 and words in done.stderr
    assert not (tmp_path / "out.jsonl").exists()
    assert {path: path.read_bytes() for path in files.values()} == before
