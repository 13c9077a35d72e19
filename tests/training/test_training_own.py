"""`tte train traces | reasoner | embedder | head` on bases of every family: what was trained is what is served."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tte_runtime import Embedder
from tte_runtime.training.base import Base
from tte_runtime.training.examples import read_examples
from tte_runtime.training.recipes import reading, unified
from tte_runtime.training.stages.embedder import train_embedder
from tte_runtime.training.stages.head import train_head
from tte_runtime.training.stages.reasoner import train_reasoner
from tte_runtime.training.stages.run import Options
from tte_runtime.training.vectors import Vectors

sys.path.append(str(Path(__file__).parents[1] / "models"))
from checkpoints import make_config, save, thinking

from tte_runtime.heads.reference import ReferenceHead
from tte_runtime.training.base import write_recipe

SMALL = Options(epochs=1, batch_size=4, mini_batch=2, learning_rate=1e-3, seed=1, device="cpu")


def make_data(folder: Path, *, pictures: bool, count: int = 9) -> Path:
    rng = np.random.default_rng(0)
    lines = []
    for number in range(count):
        query: dict[str, Any] = {"text": f"what is {number}?", "trace": f"<think> it is {number} </think> {number}"}
        positive: dict[str, Any] = {"text": f"number {number}", "trace": f"a number, {number}"}
        if pictures and number % 2:
            name = f"{number}.png"
            size = (40 + 9 * number, 70, 3)
            Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(folder / name)
            query["image"] = name
        if pictures and number % 3 == 1:
            positive = {"image": name, "trace": "a picture"}
        lines.append({"query": query, "positive": positive, "negatives": [f"no {number}", {"text": f"not {number}"}]})
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def base_of(folder: Path, family: str) -> Path:
    save(folder, make_config(family))
    write_recipe(folder, thinking())
    return folder


def assert_served_as_trained(out: Path, vectors: Vectors, data: Path) -> None:
    """The runtime's vectors are those of the training-time forward, for queries and documents."""
    examples = read_examples(data, positives=True)
    with Embedder.from_pretrained(out) as embedder:
        for role, entries in (
            ("query", [e.query for e in examples]),
            ("document", [e.positive for e in examples if e.positive]),
        ):
            with torch.no_grad():
                trained = vectors.embed(entries).numpy()
            served = np.stack([r.vector for r in embedder.embed([e.item for e in entries], role=role, think=True)])
            assert np.abs(trained - served).max() < 1e-5


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen2", "qwen3", "llama"])
def test_every_family(tmp_path: Path, family: str) -> None:
    base = base_of(tmp_path / "base", family)
    (tmp_path / "data").mkdir()
    data = make_data(tmp_path / "data", pictures=family.endswith("vl"))
    reasoner = train_reasoner(str(base), data, tmp_path / "reasoner", options=SMALL)
    before = Base.load(str(base), device="cpu", precision="float32").model.state_dict()
    after = Base.load(str(reasoner), device="cpu", precision="float32")
    moved = {name for name, tensor in after.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved and not any("visual" in name for name in moved)
    for name, lora in (("lora", (4, 16)), ("full", None)):
        options = Options(**{**vars(SMALL), "lora": lora})
        out = train_embedder(str(reasoner), data, tmp_path / name, options=options)
        loaded = Base.load(str(out), device="cpu", precision="float32")
        vectors = Vectors(loaded.model, loaded.feeder(reading(out, None)), mixed=False)
        assert_served_as_trained(out, vectors, data)
    out = train_head(str(reasoner), data, tmp_path / "unified", options=SMALL)
    loaded = Base.load(str(out), device="cpu", precision="float32")
    head = ReferenceHead.from_checkpoint(out, loaded.model.config)
    entry = json.loads((out / "tte.json").read_text())["head"]
    vectors = Vectors(
        loaded.model, loaded.feeder(unified(out, None)), mixed=False, head=head, tap_layer=entry["tap_layer"]
    )
    assert_served_as_trained(out, vectors, data)
