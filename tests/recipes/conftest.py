"""Checkpoints and pictures that the tests of recipes share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recipe_checkpoints import build


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a checkpoint the first time it is asked for: (name of the folder, family, *added tokens)."""
    root, made = tmp_path_factory.mktemp("checkpoints"), {}

    def get(name: str, family: str, *added: str) -> Path:
        if name not in made:
            made[name] = build(root / name, family, added)
        return made[name]

    return get


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Two pictures, of odd sizes."""
    rng = np.random.default_rng(0)
    sizes = [(70, 130), (40, 33)]
    return [Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for h, w in sizes]
