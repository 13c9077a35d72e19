"""Where the bytes of a picture, a video or a PDF come from: a path, memory, a data URL, or an http(s) URL.

Runs in the preparing pool. A download has a limit of size and of time, and is not led away: redirects stay on http(s),
never from https to http, never from elsewhere to an address of this machine or its private network. Knows no formats.
"""

from __future__ import annotations

import base64
import binascii
import io
import ipaddress
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from tte_runtime.compat import http_client
from tte_runtime.errors import InputError
from tte_runtime.inputs.items import is_url

MAX_MIB = {"picture": 64, "PDF": 128, "video": 512}
MAX_SECONDS = 60.0  # of a whole download
SILENCE_SECONDS = 10.0  # without a byte, or without a connection
MAX_REDIRECTS = 5
SHOWN = 80  # characters of a URL in an error


def locate(source: str | Path | bytes, kind: str, error: type[InputError]) -> Path | io.BytesIO:
    """What a reader can open: a path that exists, or bytes in memory.

    Args:
        source: a path, encoded bytes, a data URL or an http(s) URL.
        kind: "picture", "video" or "PDF", for the limit and for messages.
        error: what is raised where it cannot be had.
    """
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if isinstance(source, str) and source.startswith("data:"):
        return io.BytesIO(_data_url(source, kind, error))
    if is_url(source):
        return io.BytesIO(fetch(str(source), kind, error))
    if isinstance(source, str) and "://" in source[:16]:
        raise error(f"{kind} {_shown(source)} has a scheme that is not fetched. Use http, https, a data URL or a path.")
    path = Path(source).expanduser()
    if path.is_dir():
        remedy = "Give a file, or its frames as a list of pictures" if kind == "video" else "Give a file"
        raise error(f"{kind} {str(path)!r} is a folder. {remedy}.")
    if not path.is_file():
        hint = ' For a text that ends in such a suffix use {"text": ...}.' if isinstance(source, str) else ""
        raise error(f"{kind} {str(source)!r} does not exist. Check the path.{hint}")
    return path


def name_of(source: Any) -> str:
    """A source as errors name it."""
    if isinstance(source, bytes):
        return f"{len(source)} bytes"
    return _shown(str(source))


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def _data_url(url: str, kind: str, error: type[InputError]) -> bytes:
    """The bytes of a data URL (RFC 2397)."""
    head, comma, body = url.partition(",")
    try:
        if not comma:
            raise ValueError("it has no comma before its data")
        raw = unquote_to_bytes(body)
        return base64.b64decode(raw, validate=True) if head.endswith(";base64") else raw
    except (ValueError, binascii.Error) as reason:
        raise error(
            f"data URL {_shown(url)} of a {kind} cannot be decoded: {reason}. Its form is data:image/png;base64,..."
        ) from reason


def fetch(url: str, kind: str, error: type[InputError]) -> bytes:
    """Download, redirects followed by hand so that each can be judged.

    Raises:
        error: the host cannot be reached, answers anything but 200, is too slow, sends too much, or leads astray.
    """
    httpx = http_client()
    until = time.monotonic() + MAX_SECONDS
    here = url
    try:
        with httpx.Client(timeout=SILENCE_SECONDS, follow_redirects=False) as client:
            for _ in range(MAX_REDIRECTS + 1):
                with client.stream("GET", here) as response:
                    if response.next_request is None:
                        return _body(response, url, kind, error, until)
                    there = str(response.next_request.url)
                if reason := _astray(here, there):
                    raise error(f"{kind} {_shown(url)} redirects to {_shown(there)}, {reason}. Give its final address.")
                here = there
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as reason:
        words = str(reason) or type(reason).__name__
        raise error(
            f"{kind} {_shown(url)} cannot be fetched: {words}. Check the address and the network, or give a file."
        ) from reason
    raise error(f"{kind} {_shown(url)} redirects more than {MAX_REDIRECTS} times. Give its final address.")


def _body(response: Any, url: str, kind: str, error: type[InputError], until: float) -> bytes:
    if response.status_code != 200:
        raise error(
            f"{kind} {_shown(url)} cannot be fetched: the server answers {response.status_code} "
            f"{response.reason_phrase}. Check the address, or download it and give the file."
        )
    body = bytearray()
    for chunk in response.iter_bytes():  # decompressed, so that a small answer cannot become a large one unseen
        body += chunk
        if len(body) > MAX_MIB[kind] * 2**20:
            raise error(f"{kind} {_shown(url)} is larger than {MAX_MIB[kind]} MiB. Download it and give the file.")
        if time.monotonic() > until:
            raise error(f"{kind} {_shown(url)} took more than {MAX_SECONDS:.0f} s. Download it and give the file.")
    return bytes(body)


def _astray(here: str, there: str) -> str | None:
    """Why a redirect is not followed; `None` where it is."""
    old, new = urlsplit(here), urlsplit(there)
    if new.scheme not in ("http", "https"):
        return "which is not http"
    if old.scheme == "https" and new.scheme == "http":
        return "which is not encrypted any more"
    if new.hostname != old.hostname and not _is_private(old.hostname) and _is_private(new.hostname):
        return "which is an address of a private network"
    return None


def _is_private(host: str | None) -> bool:
    """Whether a host is this machine or in its private network; a name that cannot be resolved here is not."""
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return False
    return any(not ipaddress.ip_address(str(address[4][0]).partition("%")[0]).is_global for address in found)
