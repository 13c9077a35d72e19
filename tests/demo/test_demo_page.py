"""The page and the console text of a made-up report: self-contained, described, escaped, and honest about
failed parity.
"""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tte_runtime.demo import console
from tte_runtime.demo.asking import Asked, Gallery, rank
from tte_runtime.demo.gallery import image_of, make_gallery, pose_questions
from tte_runtime.demo.page import render_page, write_page
from tte_runtime.demo.report import Report
from tte_runtime.evaluation.compare import Comparison, Measured, Parity
from tte_runtime.evaluation.machine import Machine
from tte_runtime.types import Counts, Result, Timings

VOID = ("meta", "img", "br", "path", "rect", "line")
GOOD, BAD = Parity(6, 6, 2e-7, 1e-5), Parity(5, 6, 0.3, 1e-5)


def result(vector: np.ndarray, trace: str) -> Result:
    timings = Timings(preprocess=1.0, queue=0.5, prefill=2.0, decode=8.0, readout=0.5, total=12.0)
    counts = Counts(prompt=30, trace=9, suffix=1, computed=40)
    return Result(vector, trace, (1,) * 9, "stop", None, counts, timings, "f")


@pytest.fixture(scope="module")
def report() -> Report:
    tests = pose_questions(6, seed=0)
    documents = tuple(make_gallery(tests, 1, seed=0))
    vectors = np.random.default_rng(0).normal(size=(len(documents), 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    gallery = Gallery(documents, (), vectors, 2.0)
    asked = []
    for test in tests:
        right = next(i for i, document in enumerate(documents) if document.answer == test.question.answer)
        thinking = rank(test, result(vectors[right], test.question.trace), gallery)
        direct = rank(test, result(-vectors[right], "<b>&"), gallery)
        asked.append(Asked(test, thinking, direct, True))
    asked[1] = replace(asked[1], trace_right=False, thinking=rank(tests[1], result(vectors[3], "<b>& fru"), gallery))
    arms = [Measured(name, GOOD, ((k, k),) * 5, 18) for name, k in (("ours", 0.02), ("two", 0.06), ("one", 0.05))]
    machine = Machine("a processor", 2, {"torch": "2.0"}, "2026-01-01 00:00 UTC")
    return Report(
        model="tte-tiny",
        command="tte demo --seed 7",
        engine="device=cpu",
        dtype="float32",
        seed=7,
        gallery=gallery,
        asked=tuple(asked),
        comparison=Comparison(tuple(arms)),
        repetitions=5,
        machine=machine,
    )


def without_parity(report: Report) -> Report:
    arms = tuple(replace(arm, parity=BAD, seconds=()) for arm in report.comparison.arms[1:])
    return replace(report, comparison=Comparison((replace(report.comparison.arms[0], seconds=()), *arms)))


class Checker(HTMLParser):
    """Counts pictures, and follows open tags."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.pictures.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_asks_for_nothing(report: Report) -> None:
    page = render_page(report)
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    pictures = sum(image_of(document.item) is not None for document in report.gallery.documents)
    assert len(checker.pictures) > pictures
    for picture in checker.pictures:
        assert (picture["src"] or "").startswith("data:image/jpeg;base64,") and picture["alt"]
    outside = re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?:|<script|<link|@import|url\((?!#)", outside)
    assert "default-src 'none'" in page and "prefers-color-scheme: dark" in page


def test_the_page_tells_what_was_found(report: Report) -> None:
    page = render_page(report)
    assert "5<small>/6</small>" in page and "0<small>/6</small>" in page
    assert page.count("none of them twice") == 6
    assert "3.0\u00d7" in page and "60.0 (60.0\u201360.0)" in page
    assert "&lt;b&gt;&amp; fru" in page and "<b>&" not in page
    assert "tte demo --seed 7" in page and "2026-01-01 00:00 UTC" in page and "CC BY 4.0" in page


def test_no_ratio_where_parity_failed(report: Report) -> None:
    failed = without_parity(report)
    page = render_page(failed)
    assert "Parity failed" in page and "not compared with plain" in page and "\u00d7" not in page
    text = console.summary(failed)
    assert text.count("NOT COMPARED") == 2 and text.count("PARITY FAILED: same traces 5/6") == 2
    assert "times as long" not in text and " ms a query" not in text


def test_the_console_gives_rankings_times_and_tokens(report: Report) -> None:
    text = console.question(1, report.asked[0])
    assert "+ 1.000" in text and "the right one is on place" in text
    assert "12.0 ms = preprocess 1.0 | queue 0.5 | vision 0.0 | prefill 2.0 | decode 8.0 | readout 0.5" in text
    assert "computed 40, cached 0" in text
    text = console.summary(report)
    assert "3.00 (3.00 - 3.00) times as long\n" in text
    assert "parity: same traces 6/6, largest vector error 2.0e-07" in text
    assert max(map(len, text.splitlines())) <= 130


def test_writing_leaves_one_file(report: Report, tmp_path: Path) -> None:
    out = tmp_path / "demo.html"
    out.write_text("old")
    write_page(report, out)
    assert [path.name for path in tmp_path.iterdir()] == ["demo.html"]
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
