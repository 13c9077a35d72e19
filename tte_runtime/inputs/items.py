"""What a user may pass as a request: text, a picture, or both. Parsing only; nothing is opened here.

An item is a text, a picture (a path, a PIL image, an array, encoded bytes), or a mapping with "text" and "image"
(one picture) or "images" (several, in order). A string is a picture's path when it ends in a picture's suffix
and holds no line break; a `pathlib.Path` always is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tte_runtime.errors import InputError, one_of

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
KEYS = ("text", "image", "images")


@dataclass(frozen=True, eq=False)
class Item:
    """A request's content: pictures in order, then text ("" for none)."""

    pictures: tuple[Any, ...]
    text: str


def is_picture_path(text: str) -> bool:
    """Whether a plain string means a picture's path."""
    return text.lower().endswith(PICTURE_SUFFIXES) and "\n" not in text


def is_picture(value: object) -> bool:
    """Whether a value is of a kind that pictures come in."""
    return isinstance(value, (Path, Image.Image, np.ndarray, bytes)) or (
        isinstance(value, str) and is_picture_path(value)
    )


def parse_item(value: object) -> Item:
    """One request's content.

    Raises:
        InputError: it is empty, of an unknown kind, or has unknown keys.
    """
    if isinstance(value, Mapping):
        item = _from_mapping(value)
    elif is_picture(value):
        item = Item((value,), "")
    elif isinstance(value, str):
        item = Item((), value)
    else:
        raise InputError(
            f"a request must be text, a picture, or a mapping with {', '.join(KEYS)}; got {type(value).__name__}."
        )
    if not item.pictures and not item.text.strip():
        raise InputError("the request is empty. Give a text, a picture, or both.")
    return item


def _from_mapping(value: Mapping[Any, Any]) -> Item:
    for key in value:
        if key not in KEYS:
            raise InputError(one_of("key of a request", key, KEYS))
    if "image" in value and "images" in value:
        raise InputError('a request has either "image" (one picture) or "images" (a list), not both.')
    text = value.get("text")
    if text is not None and not isinstance(text, str):
        raise InputError(f'"text" must be a string, got {type(text).__name__}.')
    pictures = value.get("images")
    if pictures is None:
        pictures = [] if value.get("image") is None else [value["image"]]
    if not isinstance(pictures, (list, tuple)):
        raise InputError(f'"images" must be a list of pictures, got {type(pictures).__name__}. Use "image" for one.')
    for picture in pictures:
        if not (is_picture(picture) or isinstance(picture, str)):
            raise InputError(
                f"a picture must be a path, a PIL image, an array or encoded bytes; got {type(picture).__name__}."
            )
    return Item(tuple(pictures), text or "")
