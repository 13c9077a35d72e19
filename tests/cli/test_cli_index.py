"""`tte index`: built, brought up to date, stopped and gone on with, searched, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from tte_runtime import Embedder
from tte_runtime.errors import IndexFileError, InputError
from tte_runtime.index import Index, build_index
from tte_runtime.index import build as build_module
from tte_runtime.index.store import IndexWriter, Settings

Tte = Callable[..., Result]
NAMES = ["cat.png", "note.txt", "sub/dog.png"]


def paths(out: Path) -> list[str]:
    return sorted(entry.path for entry in Index.open(out).entries)


def test_build_then_search(tte: Tte, folder: Path, tmp_path: Path, tiny: Embedder) -> None:
    out = tmp_path / "index"
    done = tte("index", "build", folder, "--out", out, "--max-trace-tokens", "2")
    assert done.exit_code == 0, done.stderr
    assert "3 embedded, 0 kept, 0 removed, 0 failed" in done.stderr
    assert paths(out) == NAMES
    found = tte("index", "search", out, "--image", folder / "cat.png", "--json", "--no-think")
    hits = json.loads(found.stdout)["hits"]
    query = tiny.embed(folder / "cat.png", role="query", think=False).vector
    index = Index.open(out)
    scores = {entry.path: float(score) for entry, score in zip(index.entries, index.vectors @ query, strict=True)}
    assert {hit["path"]: pytest.approx(hit["score"], abs=1e-5) for hit in hits} == scores
    assert [hit["score"] for hit in hits] == pytest.approx(sorted(scores.values(), reverse=True), abs=1e-5)
    lines = tte("index", "search", out, "pizza", "--top", "2", "--max-trace-tokens", "2").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2"]


def test_building_again_embeds_only_what_is_new_or_changed(folder: Path, tmp_path: Path, tiny: Embedder) -> None:
    out = tmp_path / "index"
    build_index(tiny, folder, out, think=False)
    before = {entry.path: entry for entry in Index.open(out).entries}
    (folder / "note.txt").write_text("another text")
    (folder / "new.txt").write_text("new")
    (folder / "cat.png").unlink()
    report = build_index(tiny, folder, out, think=False)
    assert (report.embedded, report.kept, report.removed) == (2, 1, 1)
    index = Index.open(out)
    after = {entry.path: i for i, entry in enumerate(index.entries)}
    assert sorted(after) == ["new.txt", "note.txt", "sub/dog.png"]
    assert index.entries[after["sub/dog.png"]] == before["sub/dog.png"]
    changed = tiny.embed("another text", role="document", think=False).vector
    np.testing.assert_allclose(index.vectors[after["note.txt"]], changed, atol=1e-5)


def test_videos_and_every_page_of_a_pdf_are_documents(tte: Tte, folder: Path, tmp_path: Path, tiny: Embedder) -> None:
    pages = [Image.new("RGB", (90, 120), color) for color in ("red", "green", "blue")]
    pages[0].save(folder / "report.pdf", "PDF", save_all=True, append_images=pages[1:])
    with av.open(str(folder / "sub" / "clip.mkv"), "w") as file:
        stream = file.add_stream("ffv1", rate=2, width=56, height=56, pix_fmt="bgr0")
        for frame in pages:
            file.mux(stream.encode(av.VideoFrame.from_image(frame.resize((56, 56)))))
        file.mux(stream.encode())
    (folder / "broken.pdf").write_bytes(b"no PDF")
    out = tmp_path / "index"
    done = tte("index", "build", folder, "--out", out, "--no-think")
    assert done.exit_code == 1
    assert "7 embedded, 0 kept, 0 removed, 1 failed" in done.stderr and "broken.pdf: " in done.stderr
    made = [f"report.pdf#page={number}" for number in (1, 2, 3)] + ["sub/clip.mkv"]
    assert paths(out) == sorted([*NAMES, *made])
    index = Index.open(out)
    for name in made:  # what is found can be given back as it is named
        row = next(entry.row for entry in index.entries if entry.path == name)
        vector = tiny.embed(f"{folder}/{name}", role="document", think=False).vector
        np.testing.assert_allclose(index.vectors[row], vector, atol=1e-5)
    (folder / "broken.pdf").unlink()
    pages[2].save(folder / "report.pdf", "PDF")
    again = build_index(tiny, folder, out, model="tte-tiny", think=False)
    assert (again.embedded, again.kept, again.removed) == (1, 4, 2)


def test_a_killed_build_goes_on_where_it_stopped(
    folder: Path, tmp_path: Path, tiny: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "index"
    monkeypatch.setattr(build_module, "BLOCK", 1)
    embedded: list[Any] = []
    embed = tiny.embed

    def dying(items: list[Any], **options: Any) -> Any:
        if len(embedded) == 2:
            raise KeyboardInterrupt
        embedded.extend(items)
        return embed(items, **options)

    monkeypatch.setattr(tiny, "embed", dying)
    with pytest.raises(KeyboardInterrupt):
        build_index(tiny, folder, out, think=False)
    with pytest.raises(IndexFileError, match="not finished"):
        Index.open(out)
    for name, torn in (("vectors.f32", b"\0\0\0"), ("entries.jsonl", b'{"path": "su')):
        with (out / name).open("ab") as file:
            file.write(torn)
    monkeypatch.setattr(tiny, "embed", embed)
    report = build_index(tiny, folder, out, think=False)
    assert (report.embedded, report.kept) == (1, 2)
    index = Index.open(out)
    whole = build_index(tiny, folder, tmp_path / "whole", think=False)
    assert whole.embedded == 3
    np.testing.assert_allclose(index.vectors, Index.open(tmp_path / "whole").vectors, atol=1e-6)


def test_a_broken_file_loses_no_other(tte: Tte, folder: Path, tmp_path: Path) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "latin.txt").write_bytes(b"\xff\xfe\xff")
    (folder / "empty.txt").write_text("")
    out = tmp_path / "index"
    done = tte("index", "build", folder, "--out", out, "--no-think")
    assert done.exit_code == 1
    for name in ("broken.png", "latin.txt", "empty.txt"):
        assert f"{name}: " in done.stderr
    assert paths(out) == NAMES


def test_an_index_of_another_fingerprint_is_refused(tte: Tte, folder: Path, tmp_path: Path, tiny: Embedder) -> None:
    out = tmp_path / "index"
    build_index(tiny, folder, out, model="tte-tiny", think=False)
    settings = json.loads((out / "settings.json").read_text())
    settings["fingerprint"] = "0" * 32
    (out / "settings.json").write_text(json.dumps(settings))
    for words in (("search", out, "x", "--no-think"), ("build", folder, "--out", out, "--no-think")):
        done = tte("index", *words)
        assert done.exit_code == 2
        for said in ("0" * 32, tiny.fingerprint, "build a new index"):
            assert said in done.stderr.splitlines()[-1]


def test_other_settings_are_refused(folder: Path, tmp_path: Path, tiny: Embedder) -> None:
    out = tmp_path / "index"
    build_index(tiny, folder, out, think=False)
    with pytest.raises(IndexFileError, match="think=False, not None"):
        build_index(tiny, folder, out, max_trace_tokens=2)
    with pytest.raises(IndexFileError, match="truncate_dim"):
        build_index(tiny, folder, out, think=False, truncate_dim=8)


def test_what_is_no_index_is_refused(tte: Tte, folder: Path, tmp_path: Path, tiny: Embedder) -> None:
    assert "is no index" in tte("index", "search", folder, "x").stderr
    assert "nothing is asked" in tte("index", "search", folder).stderr
    assert "is no folder" in tte("index", "build", tmp_path / "nowhere", "--out", tmp_path / "i").stderr
    with pytest.raises(IndexFileError, match="exists and is no index"):
        build_index(tiny, folder, folder / "sub")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="nothing to index"):
        build_index(tiny, tmp_path / "empty", tmp_path / "i")


def test_damage_is_found(folder: Path, tmp_path: Path, tiny: Embedder) -> None:
    out = tmp_path / "index"
    build_index(tiny, folder, out, think=False)
    (out / "vectors.f32").write_bytes((out / "vectors.f32").read_bytes()[:100])
    with pytest.raises(IndexFileError, match="no vector for"):
        Index.open(out)
    (out / "settings.json").write_text("{}")
    with pytest.raises(IndexFileError, match="format 1"):
        Index.open(out)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    settings = Settings(fingerprint="f", model="m", dim=2)
    with IndexWriter(tmp_path / "i", settings), pytest.raises(IndexFileError, match="another process"):
        IndexWriter(tmp_path / "i", settings)
    with IndexWriter(tmp_path / "i", settings):
        pass


def test_search_is_exact_and_ties_keep_their_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 4)).astype(np.float32)
    vectors[7] = vectors[3]
    with IndexWriter(tmp_path / "i", Settings(fingerprint="f", model="m", dim=4)) as writer:
        writer.add([(f"{i}", "", "") for i in range(50)], vectors)
        writer.remove(["11"])
        writer.finish()
    hits = Index.open(tmp_path / "i").search(vectors[3], top=49)
    scores = vectors @ vectors[3]
    wanted = sorted((i for i in range(50) if i != 11), key=lambda i: (-scores[i], i))
    assert [int(hit.path) for hit in hits] == wanted
    assert [hit.rank for hit in hits] == list(range(1, 50))
