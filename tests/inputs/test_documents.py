"""A page of a PDF is the picture that it shows; pages that are not there are refused."""

from __future__ import annotations

import base64
import io
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tte_runtime import Embedder
from tte_runtime.errors import DocumentError, InputError, MissingExtraError
from tte_runtime.inputs import documents
from tte_runtime.inputs.documents import count_pages, render_page
from tte_runtime.inputs.items import Page, Picture, parse_item

COLORS = ((200, 30, 30), (30, 160, 60), (40, 60, 190))


def sheet(color: tuple[int, int, int]) -> Image.Image:
    """A white page with a coloured upper half."""
    page = Image.new("RGB", (300, 400), "white")
    page.paste(color, (0, 0, 300, 200))
    return page


def pdf(num_pages: int) -> bytes:
    buffer = io.BytesIO()
    first, *rest = (sheet(color) for color in COLORS[:num_pages])
    first.save(buffer, "PDF", save_all=True, append_images=rest, resolution=documents.DPI)
    return buffer.getvalue()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "report.PDF"
    path.write_bytes(pdf(3))
    return path


def test_a_page_is_the_picture_it_shows(path: Path) -> None:
    assert count_pages(path) == 3
    for number, color in enumerate(COLORS, start=1):
        shown = np.asarray(render_page(Page(path, number))).astype(int)
        assert shown.shape == (400, 300, 3)
        assert np.abs(shown - np.asarray(sheet(color))).mean() < 2  # the PDF holds JPEGs


def test_every_form_of_a_page_gives_the_same_bits(tiny: Embedder, vectors_of: Any, path: Path) -> None:
    encoded = base64.b64encode(pdf(3)).decode()
    forms: list[Any] = [
        render_page(Page(path, 2)),
        {"pdf": path, "page": 2},
        {"pdf": str(path), "page": 2},
        {"pdf": pdf(3), "page": 2},
        {"pdf": f"data:application/pdf;base64,{encoded}", "page": 2},
        f"{path}#page=2",
        Path(f"{path}#page=2"),
    ]
    vectors = vectors_of(forms)
    assert all(np.array_equal(vector, vectors[0]) for vector in vectors)
    other = tiny.embed({"pdf": path, "page": 3}, role="document", think=False).vector
    assert not np.array_equal(other, vectors[0])
    single = tiny.embed({"pdf": pdf(1)}, role="document", think=False)  # its only page needs no number
    assert single.counts.vision + single.counts.vision_cached > 0


def test_pages_are_rendered_from_many_threads(path: Path) -> None:
    numbers = [1, 2, 3] * 8
    with ThreadPoolExecutor(8) as pool:
        pages = list(pool.map(lambda number: np.asarray(render_page(Page(path, number))), numbers))
    for number, page in zip(numbers, pages, strict=True):
        assert np.array_equal(page, pages[number - 1])


@pytest.mark.parametrize(
    ("item", "kind", "message"),
    [
        ("nowhere.pdf", DocumentError, 'does not exist.*For a text .* use {"text"'),
        ({"pdf": b"no PDF"}, DocumentError, "cannot be read.*whole"),
        ({"pdf": pdf(2)[:200]}, DocumentError, "cannot be read"),
        ({"pdf": pdf(3)}, DocumentError, r"has 3 pages.*N in 1\.\.3, or add #page=N"),
        ({"pdf": pdf(3), "page": 4}, DocumentError, "no page 4. It has 3"),
        ({"pdf": pdf(3), "page": 0}, InputError, "a number from 1, got 0"),
        ({"pdf": pdf(3), "page": True}, InputError, "a number from 1, got True"),
        ({"pdf": 3}, InputError, "got int"),
        ({"page": 3, "text": "x"}, InputError, 'page of a "pdf"'),
    ],
)
def test_bad_pages_harm_no_neighbour(tiny: Embedder, item: Any, kind: type[InputError], message: str) -> None:
    bad, good = tiny.embed([item, {"pdf": pdf(1)}], role="document", think=False, errors="return")
    assert isinstance(bad, kind)
    assert good.vector.shape == (192,)
    with pytest.raises(kind, match=message):
        raise bad


def test_a_page_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_PIXELS", 1000)
    with pytest.raises(DocumentError, match="300 x 400 pixels at 150 dpi"):
        render_page(Page(pdf(1)))


def test_without_pypdfium2_the_install_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tte-runtime\[pdf\]'"):
        render_page(Page(pdf(1)))


def test_names_of_pages() -> None:
    (page,) = parse_item("https://example.com/a.pdf#page=12").media
    assert isinstance(page, Page) and (page.source, page.number) == ("https://example.com/a.pdf", 12)
    (page,) = parse_item("https://example.com/a.pdf?version=2").media
    assert isinstance(page, Page) and page.number is None
    assert isinstance(parse_item(Path("a.pdf.png")).media[0], Picture)
