"""The pictures of the world and their names: 96 Twemoji pictures in ten categories (see
pictures/ATTRIBUTION.md).

Knows files and names only; nothing of boards, questions or models.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).parent / "pictures"


@functools.cache
def categories() -> dict[str, str]:
    """Name of each picture -> its category, in the fixed order of index.json."""
    entries = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
    return {entry["name"]: entry["category"] for entry in entries}


def names() -> list[str]:
    """All picture names, in the fixed order of index.json."""
    return list(categories())


@functools.cache
def picture(name: str) -> Image.Image:
    """The picture called `name`, 64x64 RGBA. Do not change it in place: it is shared. KeyError for an
    unknown name.
    """
    if name not in categories():
        raise KeyError(f"no picture is called {name!r}. Use one of tte_runtime.scenes.pictures.names().")
    with Image.open(FOLDER / f"{name}.png") as image:
        return image.convert("RGBA")


@functools.lru_cache(maxsize=16384)
def scaled_picture(name: str, side: int) -> Image.Image:
    """The picture called `name`, `side`x`side` RGBA, shared like `picture`."""
    return picture(name).resize((side, side), Image.Resampling.BICUBIC)
