"""What a user may pass as a request: text, pictures, a video, a page of a PDF, or a mix. Parsing only: opens nothing.

An item is a text, a picture, a video, a PDF, or a mapping:

    {"text": ..., "image": picture} or {"images": [picture, ...]}
    {"video": video, "fps": 1.0, "num_frames": 8, "max_pixels": 200_000}   at most one of fps and num_frames for a file
    {"pdf": document, "page": 3}                                           the page may be left out if there is only one
    {"text": ..., "trace": "..."} or {..., "trace": [token id, ...]}       a trace that was written elsewhere

and "instruction" in any of them, where the recipe has a place for one (`tte recipes`).

A picture is a path, an http(s) URL, a data URL, encoded bytes, a PIL image, or a uint8 array [H, W] or [H, W, 3 or 4].
A video is a path, a URL, a data URL, encoded bytes, a list of pictures of one size, or a uint8 array [T, H, W, 3].
A PDF is a path, a URL, a data URL or bytes. In a prompt pictures come first, then video, page, text.

A plain string is a path or a URL when it ends in a known suffix (for a PDF also in "#page=3") and holds no line break,
or a data URL of a known kind; else it is a text. A `pathlib.Path` never is one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from tte_runtime.errors import InputError, TraceError, one_of

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")
PDF_SUFFIX = ".pdf"
SURROGATE = re.compile(r"[\ud800-\udfff]")
VIDEO_KEYS = ("fps", "num_frames", "max_pixels")
KEYS = ("text", "image", "images", "video", *VIDEO_KEYS, "pdf", "page", "trace", "instruction")


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture, in any form."""

    source: Any


@dataclass(frozen=True, eq=False)
class Page:
    """A page of a PDF, shown as a picture.

    Attributes:
        source: a path, a URL, a data URL or bytes.
        number: from 1; `None` for a document of one page.
    """

    source: Any
    number: int | None = None


@dataclass(frozen=True, eq=False)
class Video:
    """A video, in any form, and what of it is looked at; where nothing is said, the checkpoint's processor decides.

    Attributes:
        source: a path, a URL, a data URL or bytes of a file; or frames, as a list of pictures or an array [T, H, W, 3].
        fps: of a file, how many frames a second are looked at; of frames, how many a second they are.
        num_frames: how many frames are looked at, evenly spread. Given frames are all looked at where it is `None`.
        max_pixels: most pixels of a frame.
    """

    source: Any
    fps: float | None = None
    num_frames: int | None = None
    max_pixels: int | None = None


Medium = Picture | Page | Video


@dataclass(frozen=True, eq=False)
class Item:
    """A request's content.

    Attributes:
        media: in order. text: after them, "" for none.
        trace: one that was written elsewhere. instruction: in the default's stead. `None` for none.
    """

    media: tuple[Medium, ...]
    text: str
    trace: str | tuple[int, ...] | None = None
    instruction: str | None = None


def is_url(value: object) -> bool:
    """Whether a value is an http(s) URL."""
    return isinstance(value, str) and value.lower().startswith(("http://", "https://"))


def medium_of(value: object) -> Medium | None:
    """The picture, video or page that a value given by itself is; `None` where it is none."""
    if isinstance(value, np.ndarray):
        return Video(value) if value.ndim == 4 else Picture(value)
    if isinstance(value, (Image.Image, bytes)):
        return Picture(value)
    if isinstance(value, Path):
        return _named(str(value), value) or Picture(value)
    return _named(value, value) if isinstance(value, str) else None


def _named(name: str, source: str | Path) -> Medium | None:
    """What a path, a URL or a data URL names, by its suffix or its media type."""
    if name.startswith("data:"):
        if name.startswith(("data:image/", "data:video/")):
            return Picture(source) if name.startswith("data:image/") else Video(source)
        return Page(source) if name.startswith("data:application/pdf") else None
    if "\n" in name or ("://" in name and " " in name):  # a text that mentions an address
        return None
    found = re.fullmatch(r"(.*\.pdf)(?:#page=(\d+))?", name, re.IGNORECASE)
    if found:
        number = None if found[2] is None else int(found[2])
        return Page(type(source)(found[1]), number)
    path = (urlsplit(name).path if is_url(name) else name).lower()
    if path.endswith(PDF_SUFFIX):  # of a URL with a query
        return Page(source)
    if path.endswith(VIDEO_SUFFIXES):
        return Video(source)
    return Picture(source) if path.endswith(PICTURE_SUFFIXES) else None


def parse_item(value: object) -> Item:
    """One request's content.

    Raises:
        InputError: it is empty, of an unknown kind, has unknown keys, or a text that no tokenizer takes.
    """
    if isinstance(value, Mapping):
        item = _from_mapping(value)
    elif (medium := medium_of(value)) is not None:
        item = Item((medium,), "")
    elif isinstance(value, str):
        item = Item((), value)
    else:
        raise InputError(
            f"a request must be text, a picture, a video, a PDF, or a mapping with {', '.join(KEYS)}; "
            f"got {type(value).__name__}."
        )
    if not item.media and not item.text.strip():
        raise InputError("the request is empty. Give a text, a picture, or both.")
    _check_characters(item)
    return item


def _check_characters(item: Item) -> None:
    """Refuse halves of surrogate pairs, which JSON can spell, and which no tokenizer and no file takes."""
    for name, text in (("text", item.text), ("instruction", item.instruction), ("trace", item.trace)):
        if isinstance(text, str) and (half := SURROGATE.search(text)):
            raise (TraceError if name == "trace" else InputError)(
                f'"{name}" has half a surrogate pair, {half[0]!r}, as character {half.start() + 1}, which is no '
                "character. Remove it, or write the whole one."
            )


def _from_mapping(value: Mapping[Any, Any]) -> Item:
    for key in value:
        if key not in KEYS:
            raise InputError(one_of("key of a request", key, KEYS))
    for key in ("text", "instruction"):
        if value.get(key) is not None and not isinstance(value[key], str):
            raise InputError(f'"{key}" must be a string, got {type(value[key]).__name__}.')
    media: list[Medium] = [*_pictures(value), *_video(value), *_page(value)]
    return Item(tuple(media), value.get("text") or "", _trace(value.get("trace")), value.get("instruction"))


def _pictures(value: Mapping[Any, Any]) -> list[Picture]:
    if "image" in value and "images" in value:
        raise InputError('a request has either "image" (one picture) or "images" (a list), not both.')
    pictures = value.get("images")
    if pictures is None:
        pictures = [] if value.get("image") is None else [value["image"]]
    if not isinstance(pictures, (list, tuple)):
        raise InputError(f'"images" must be a list of pictures, got {type(pictures).__name__}. Use "image" for one.')
    for picture in pictures:
        if not isinstance(picture, (str, Path, bytes, Image.Image, np.ndarray)):
            raise InputError(
                "a picture must be a path, a URL, a data URL, encoded bytes, a PIL image or an array; "
                f"got {type(picture).__name__}."
            )
    return [Picture(picture) for picture in pictures]


def _video(value: Mapping[Any, Any]) -> list[Video]:
    source, fps, num_frames, max_pixels = (value.get(key) for key in ("video", *VIDEO_KEYS))
    if source is None:
        for key in VIDEO_KEYS:
            if value.get(key) is not None:
                raise InputError(f'"{key}" says how a video is looked at, and there is no "video".')
        return []
    if not isinstance(source, (str, Path, bytes, np.ndarray, list, tuple)):
        raise InputError(
            "a video must be a path, a URL, a data URL, encoded bytes, a list of pictures or an array [T, H, W, 3]; "
            f"got {type(source).__name__}."
        )
    for name, number in (("num_frames", num_frames), ("max_pixels", max_pixels)):
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
            raise InputError(f'"{name}" must be a number from 1, got {number!r}.')
    if fps is not None and (not isinstance(fps, (int, float)) or isinstance(fps, bool) or not 0 < fps < math.inf):
        raise InputError(f'"fps" must be a positive number of frames a second, got {fps!r}.')
    if fps is not None and num_frames is not None and not isinstance(source, (np.ndarray, list, tuple)):
        raise InputError('"fps" and "num_frames" of a video file contradict each other. Give one of them.')
    return [Video(source, fps, num_frames, max_pixels)]


def _page(value: Mapping[Any, Any]) -> list[Page]:
    source, number = value.get("pdf"), value.get("page")
    if source is None:
        if number is not None:
            raise InputError('"page" is a page of a "pdf", and there is none.')
        return []
    if not isinstance(source, (str, Path, bytes)):
        raise InputError(f'a "pdf" must be a path, a URL, a data URL or bytes; got {type(source).__name__}.')
    if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
        raise InputError(f'"page" must be a number from 1, got {number!r}.')
    return [Page(source, number)]


def _trace(trace: Any) -> str | tuple[int, ...] | None:
    if trace is None:
        return None
    if isinstance(trace, str) and trace.strip():
        return trace
    if isinstance(trace, (list, tuple)) and trace:
        if all(isinstance(token, int) and not isinstance(token, bool) for token in trace):
            return tuple(trace)
    elif isinstance(trace, (str, list, tuple)):
        raise TraceError('"trace" is empty. Give a text or token ids, or leave it out to have one written.')
    raise TraceError(f'"trace" must be a text or a list of token ids, got {type(trace).__name__}.')
