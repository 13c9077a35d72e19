"""Every way to give the same picture is the same picture; addresses that lead nowhere, astray or too far fail."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from tte_runtime import Embedder
from tte_runtime.errors import PictureError
from tte_runtime.inputs import sources


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))


def png() -> bytes:
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """/cat.png is a picture; the other paths are trouble of the kind that their name says."""

    def do_GET(self) -> None:
        name = self.path.partition("?")[0]
        if name == "/slow.png":
            time.sleep(0.5)
        if name in ("/cat.png", "/slow.png", "/nameless"):
            return self.answer(200, png())
        if name == "/bomb.png":
            return self.answer(200, gzip.compress(bytes(100_000)), {"Content-Encoding": "gzip"})
        if name == "/text.png":
            return self.answer(200, b"<html>no picture</html>")
        targets = {"/moved.png": "/cat.png", "/loop.png": "/loop.png", "/file.png": "file:///etc/hostname"}
        if name in targets:
            return self.answer(302, b"", {"Location": targets[name]})
        return self.answer(404, b"nothing here")

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # of those who did not want to wait
            self.wfile.write(body)

    def log_message(self, *words: Any) -> None:
        """Not on stderr."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_every_form_of_a_picture_gives_the_same_bits(vectors_of: Any, site: str, tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(png())
    encoded = base64.b64encode(png()).decode()
    forms = [
        path,
        str(path),
        png(),
        picture(),
        np.asarray(picture()),
        f"{site}/cat.png",
        f"{site}/cat.png?size=3",
        f"{site}/moved.png",
        {"image": f"{site}/nameless"},
        f"data:image/png;base64,{encoded}",
        "data:image/png," + quote(png()),
        {"images": [picture()], "text": ""},
    ]
    vectors = vectors_of(forms)
    assert all(np.array_equal(vector, vectors[0]) for vector in vectors)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.png", "the server answers 404"),
        ("loop.png", "redirects more than 5 times"),
        ("file.png", "redirects to 'file://.*which is not http"),
        ("text.png", "cannot be read"),
        ("bomb.png", "is larger than 0.05 MiB. Download it"),
        ("slow.png", "cannot be fetched: .*Check the address and the network"),
    ],
)
def test_addresses_that_give_no_picture(site: str, name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tte_runtime.inputs.pictures import open_picture

    monkeypatch.setitem(sources.MAX_MIB, "picture", 0.05)
    monkeypatch.setattr(sources, "SILENCE_SECONDS", 0.2)
    with pytest.raises(PictureError, match=message):
        open_picture(f"{site}/{name}")


def test_a_download_has_an_end(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_SECONDS", 0.0)
    with pytest.raises(PictureError, match="took more than 0 s"):
        sources.fetch(f"{site}/cat.png", "picture", PictureError)


@pytest.mark.parametrize(
    ("here", "there", "reason"),
    [
        ("https://example.com/a", "http://example.com/a", "not encrypted"),
        ("http://8.8.8.8/a", "http://127.0.0.1/a", "private network"),
        ("http://8.8.8.8/a", "http://169.254.169.254/latest", "private network"),
        ("http://8.8.8.8/a", "http://[::1]/a", "private network"),
        ("http://8.8.8.8/a", "ftp://8.8.8.8/a", "not http"),
    ],
)
def test_redirects_that_lead_astray(here: str, there: str, reason: str) -> None:
    assert reason in str(sources._astray(here, there))


def test_redirects_that_are_fine() -> None:
    assert sources._astray("http://8.8.8.8/a", "https://8.8.4.4/b") is None
    assert sources._astray("http://127.0.0.1/a", "http://127.0.0.1:81/b") is None


def test_what_cannot_be_had_harms_no_neighbour(tiny: Embedder, site: str) -> None:
    with socket.socket() as free:  # a port that nobody listens on
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/cat.png"
        items = [
            nobody,
            {"image": "data:image/png;base64,%%%"},
            {"image": "data:text/plain,hello"},
            {"image": "data:image/png;base64"},
            {"image": "s3://bucket/cat.png"},
            {"image": "http://[bad/cat.png"},
            f"{site}/missing.png",
            f"{site}/cat.png",
        ]
        done = tiny.embed(items, role="document", think=False, errors="return")
    assert [isinstance(one, PictureError) for one in done] == [True] * 7 + [False]
    for one, said in zip(done, ("cannot be fetched", "cannot be decoded", "cannot be read", "no comma"), strict=False):
        assert said in str(one)


def test_what_only_looks_like_an_address_is_text(tiny: Embedder) -> None:
    texts = ["http://example.com", "see https://example.com/cat.png", "https://a b.png", "data: none", "a\nb.png"]
    for result in tiny.embed(texts, role="document", think=False):
        assert result.counts.vision + result.counts.vision_cached == 0
