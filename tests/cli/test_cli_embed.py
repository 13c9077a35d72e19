"""`tte embed`: every source and sink, failing lines among good ones, and refusals before a model is loaded."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from tte_runtime import Embedder, Think
from tte_runtime.commands.results import NpySink

QUICK = ("--role", "query", "--max-trace-tokens", "3")
Tte = Callable[..., Result]


def rows(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_arguments_become_the_vectors_that_python_gives(tte: Tte, folder: Path, tiny: Embedder) -> None:
    done = tte("embed", "what is it?", folder / "cat.png", folder / "note.txt", *QUICK)
    assert done.exit_code == 0, done.stderr
    items = ["what is it?", folder / "cat.png", "pizza"]
    wanted = tiny.embed(items, role="query", think=Think(max_tokens=3))
    for row, result in zip(rows(done), wanted, strict=True):
        np.testing.assert_allclose(row["vector"], result.vector, atol=1e-5)
        assert row["trace"] == result.trace
        assert row["finish_reason"] == result.finish_reason
        assert row["counts"]["trace"] == result.counts.trace
        assert row["fingerprint"] == tiny.fingerprint
    assert [row["index"] for row in rows(done)] == [0, 1, 2]


def test_traces_are_talk_and_can_be_hidden(tte: Tte) -> None:
    shown, hidden = (tte("embed", "a", "b", *QUICK, *more) for more in ((), ("--hide-traces",)))
    for row, other in zip(rows(shown), rows(hidden), strict=True):
        # Which requests share a batch is a matter of time, and torch rounds by the batch.
        assert np.abs(np.subtract(row.pop("vector"), other.pop("vector"))).max() < 1e-5
        assert row == other
        assert f"[{row['index']}] {row['trace']}" in shown.stderr
        assert f"[{row['index']}]" not in hidden.stderr


def test_one_request_shows_its_trace_as_it_is_written(tte: Tte, folder: Path) -> None:
    done = tte("embed", "--text", "what is it?", "--image", folder / "cat.png", *QUICK)
    (row,) = rows(done)
    assert row["trace"] in done.stderr
    assert f"[{row['finish_reason']}]" in done.stderr
    assert row["counts"]["vision"] > 0


def test_jsonl_carries_ids_and_a_bad_line_loses_no_other(tte: Tte, folder: Path) -> None:
    lines = [
        json.dumps({"id": "first", "text": "what?", "image": str(folder / "cat.png")}),
        "",
        "{no json",
        json.dumps({"id": 7, "image": str(folder / "missing.png")}),
        json.dumps([1, 2]),
        json.dumps({"txt": "x"}),
        json.dumps("a plain string"),
    ]
    done = tte("embed", "--jsonl", "-", *QUICK, input="\n".join(lines))
    assert done.exit_code == 1
    found = rows(done)
    assert [row["index"] for row in found] == list(range(6))
    assert [row.get("id") for row in found] == ["first", None, 7, None, None, None]
    assert ["vector" in row for row in found] == [True, False, False, False, False, True]
    for row, said in zip(found[1:5], ("line 3", "does not exist", "line 5", "Known: text, image, images"), strict=True):
        assert said in row["error"]
        assert said in done.stderr


def test_lines_with_frames_and_pages(tte: Tte, folder: Path, tiny: Embedder) -> None:
    still = str(folder / "cat.png")
    pages = [Image.new("RGB", (90, 120), color) for color in ("red", "green")]
    pages[0].save(folder / "report.pdf", "PDF", save_all=True, append_images=pages[1:])
    items = [
        {"video": [still, still], "fps": 1.0, "text": "what?"},
        {"pdf": str(folder / "report.pdf"), "page": 2},
        f"{folder}/report.pdf#page=2",
        f"{folder}/report.pdf",
    ]
    done = tte("embed", "--jsonl", "-", "--role", "query", "--no-think", input="\n".join(map(json.dumps, items)))
    found = rows(done)
    for row, item in zip(found[:3], items, strict=False):
        np.testing.assert_allclose(row["vector"], tiny.embed(item, role="query", think=False).vector, atol=1e-5)
    assert "has 2 pages" in found[3]["error"]


def test_a_line_that_is_no_utf8_loses_no_other(tte: Tte, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'"good"\n"\xff"\n')
    done = tte("embed", "--jsonl", tmp_path / "in.jsonl", *QUICK)
    assert ["error" in row for row in rows(done)] == [False, True]


def test_npy_keeps_its_rows_in_place(tte: Tte, tmp_path: Path, tiny: Embedder) -> None:
    out = tmp_path / "v.npy"
    done = tte("embed", "a", "missing.png", "b", *QUICK, "--out", out, "--truncate-dim", "8")
    assert done.exit_code == 1
    assert done.stdout == ""
    vectors = np.load(out)
    assert (vectors.shape, vectors.dtype) == ((3, 8), np.float32)
    assert np.isnan(vectors[1]).all()
    np.testing.assert_allclose(np.linalg.norm(vectors[[0, 2]], axis=1), 1, atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["v.npy"]


def test_npy_goes_through_a_pipe(monkeypatch: pytest.MonkeyPatch, tiny: Embedder) -> None:
    result = tiny.embed("hello", role="query", think=False)
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source:
        with os.fdopen(writing, "w") as pipe:  # which, unlike a file, cannot seek
            monkeypatch.setattr("sys.stdout", pipe)
            with NpySink(None, tiny.embedding_dim) as sink:
                sink.write(0, None, result)
            monkeypatch.undo()
        np.testing.assert_array_equal(np.load(io.BytesIO(source.read())), result.vector[None])


def test_jsonl_into_a_file(tte: Tte, tmp_path: Path) -> None:
    done = tte("embed", "a", "--no-think", "--role", "document", "--out", tmp_path / "v.jsonl")
    assert (done.exit_code, done.stdout) == (0, "")
    assert json.loads((tmp_path / "v.jsonl").read_text())["finish_reason"] == "no_trace"


def test_a_deadline_still_gives_a_vector(tte: Tte) -> None:
    done = tte("embed", "a", "--role", "query", "--deadline-ms", "0")
    assert rows(done)[0]["forced_by"] == "deadline"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--role", "query"], "give requests in one way, got 0"),
        (["a", "--text", "b"], "got 2"),
        (["a", "--no-think", "--deadline-ms", "5"], "--no-think leaves nothing to limit"),
        (["a", "--max-trace-tokens", "-1"], "max_tokens must be >= 0"),
        (["a", "--out", "v.txt"], "Known: .jsonl, .npy"),
        (["a", "--out", "v.npy", "--format", "jsonl"], "contradict"),
        (["a", "--out", "no/such/v.npy"], "no folder"),
        (["a", "--rolle", "query"], "unknown option '--rolle'. Known: "),
        (["a", "--role", "judge"], "'judge' is not one of 'query', 'document'"),
        (["--jsonl", "missing.jsonl"], "No such file"),
        (["a", "--role", "query", "--model", "nowhere"], "is no folder, no bundled checkpoint"),
        (["a"], "Give --role query or --role document"),
        (["a", "--role", "query", "--device", "toaster"], "toaster"),
        (["a", "--role", "query", "--truncate-dim", "0"], "truncate_dim must be in"),
        (["a", "b", "--role", "query", "--batch-size", "0"], "batch_size must be a positive integer"),
    ],
)
def test_refusals_are_one_line_and_exit_2(tte: Tte, words: list[str], said: str) -> None:
    done = tte("embed", *words)
    assert done.exit_code == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last
    assert done.stdout == ""


def test_a_file_that_cannot_be_written_is_one_line_too(tte: Tte, tmp_path: Path) -> None:
    (tmp_path / "v.npy.part").mkdir()
    done = tte("embed", "a", *QUICK, "--out", tmp_path / "v.npy")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == f"error: Is a directory: {tmp_path / 'v.npy.part'}."


def test_bytes_do_not_go_to_a_terminal(tte: Tte, monkeypatch: pytest.MonkeyPatch) -> None:
    from tte_runtime.commands import embed

    monkeypatch.setattr(embed.sys, "stdout", type("Terminal", (), {"isatty": lambda self: True})())
    with pytest.raises(ValueError, match="would write bytes to a terminal"):
        embed.choose_sink(None, "npy")
