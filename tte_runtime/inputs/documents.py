"""A page of a PDF as a picture, rendered by pypdfium2 (the extra `pdf`). Knows nothing of prompts and patches."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from tte_runtime.errors import DocumentError, MissingExtraError
from tte_runtime.inputs.items import Page
from tte_runtime.inputs.sources import locate, name_of

DPI = 150  # an A4 page becomes 1241 x 1754 pixels; the image processor makes it smaller where the model wants less
MAX_PIXELS = 2**26  # of a rendered page; A0 at 150 dpi has 35 million
PDFIUM = threading.Lock()  # PDFium may be called by one thread at a time, whatever the document


def count_pages(source: Any) -> int:
    """Pages of a PDF; errors as `render_page`."""
    place, name = locate(source, "PDF", DocumentError), name_of(source)
    with PDFIUM, _opened(place, name) as document:
        return len(document)


def render_page(page: Page) -> Image.Image:
    """A page as an RGB picture at 150 dpi, on white.

    Raises:
        MissingExtraError: pypdfium2 is not installed.
        DocumentError: the PDF is missing, broken, locked or empty, there is no such page, or it is too large.
    """
    place, name = locate(page.source, "PDF", DocumentError), name_of(page.source)
    with PDFIUM, _opened(place, name) as document:
        found = document[_index(page.number, len(document), name)]
        width, height = (round(points * DPI / 72) for points in found.get_size())
        if width * height > MAX_PIXELS:
            raise DocumentError(
                f"a page of PDF {name} would have {width} x {height} pixels at {DPI} dpi, more than {MAX_PIXELS}. "
                "Render it smaller and give the picture."
            )
        return found.render(scale=DPI / 72).to_pil().convert("RGB")


def _index(number: int | None, count: int, name: str) -> int:
    """The page that is meant, from 0."""
    if number is None and count > 1:
        raise DocumentError(
            f"PDF {name} has {count} pages, and one is embedded at a time. Say which: "
            f'{{"pdf": ..., "page": N}} with N in 1..{count}, or add #page=N to the path.'
        )
    if not 1 <= (number := number or 1) <= count:
        raise DocumentError(f"PDF {name} has no page {number}. It has {count}.")
    return number - 1


@contextmanager
def _opened(place: Path | io.BytesIO, name: str) -> Iterator[Any]:
    pdfium = _pdfium()
    try:
        with pdfium.PdfDocument(place) as document:
            yield document
    except pdfium.PdfiumError as error:
        raise DocumentError(
            f"PDF {name} cannot be read: {error}. Check that it is whole and has no password."
        ) from error


def _pdfium() -> Any:
    try:
        import pypdfium2
    except ImportError as error:
        raise MissingExtraError(
            "a PDF needs pypdfium2. Run: pip install 'tte-runtime[pdf]' (or: pip install pypdfium2)."
        ) from error
    return pypdfium2
