"""Small bases of every family and small data for them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tte_runtime.training.written import write_recipe

sys.path.append(str(Path(__file__).parents[1] / "models"))
from checkpoints import make_config, save, thinking


def make_base(folder: Path, family: str) -> Path:
    """A checkpoint of random weights that says in its `tte.json` how it thinks."""
    save(folder, make_config(family))
    write_recipe(folder, thinking())
    return folder


def make_data(folder: Path, *, pictures: bool, traces: bool = True, count: int = 6) -> Path:
    """`count` lines, with traces, some with pictures of odd sizes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for number in range(count):
        query: dict[str, Any] = {"text": f"what is {number}?", "trace": f"<think> it is {number} </think> {number}"}
        positive: dict[str, Any] = {"text": f"number {number}", "trace": f"a number, {number}"}
        if pictures and number % 2:
            query["image"] = f"{number}.png"
            size = (40 + 9 * number, 70, 3)
            Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(folder / query["image"])
        if number % 4 == 1 and "image" in query:
            positive = {"image": query["image"], "trace": "a picture"}
        if not traces:
            query.pop("trace"), positive.pop("trace")
        lines.append({"query": query, "positive": positive, "negatives": [f"no {number}", {"text": f"not {number}"}]})
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
