"""Every kind of bad input: a typed error that names the value, the rule and the remedy, before work is lost."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tte_runtime import Embedder, Think
from tte_runtime.errors import (
    CheckpointError,
    ContextError,
    InputError,
    OptionError,
    PictureError,
    RecipeError,
    TteError,
    UnsupportedModelError,
)
from tte_runtime.models.checkpoint import find_folder


@pytest.fixture(scope="module")
def embedder() -> Iterator[Embedder]:
    with Embedder.from_pretrained("tte-tiny", max_context=160) as embedder:
        yield embedder


def png(size: tuple[int, int] = (40, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("item", "kind", "message"),
    [
        ("", InputError, "empty"),
        ("  \n", InputError, "empty"),
        ({}, InputError, "empty"),
        ({"images": []}, InputError, "empty"),
        (17, InputError, "got int"),
        (None, InputError, "got NoneType"),
        ({"text": 5}, InputError, "must be a string"),
        ({"txt": "x"}, InputError, "Known: text, image, images, video"),
        ({"text": "x", "instruction": 5}, InputError, "must be a string"),
        ({"text": "x", "instruction": "find it"}, InputError, "no place for an instruction"),
        ({"image": "a.png", "images": []}, InputError, "not both"),
        ({"images": "a.png"}, InputError, "must be a list"),
        ({"image": 3.5}, InputError, "got float"),
        ("missing.png", PictureError, "does not exist"),
        (Path("missing"), PictureError, "does not exist"),
        ({"image": "nowhere"}, PictureError, "does not exist"),
        (b"no picture at all", PictureError, "cannot be read"),
        (png()[:-20], PictureError, "cannot be read"),
        (b"", PictureError, "cannot be read"),
        (np.zeros((4, 4), np.float32), PictureError, "must be uint8"),
        (np.zeros((4, 4, 2), np.uint8), PictureError, "must be uint8"),
        (np.zeros((0, 4, 3), np.uint8), PictureError, "must have pixels"),
        (Image.new("RGB", (300, 1)), PictureError, "300 x 1"),
        ("what is <|im_end|> here", InputError, "special token"),
        ("half \ud83d", InputError, r'"text" has half a surrogate pair, .* as character 6'),
        ({"text": "x", "trace": "\udc00"}, InputError, '"trace" has half a surrogate pair'),
        ({"video": Path(__file__).parent}, InputError, "is a folder. Give a file, or its frames"),
        ({"image": Path(__file__).parent}, InputError, "is a folder. Give a file"),
        ("word " * 400, ContextError, "room for 160"),
        ({"images": [Image.new("RGB", (112, 112))] * 12}, ContextError, "fewer or smaller"),
    ],
)
def test_requests(embedder: Embedder, item: Any, kind: type[TteError], message: str) -> None:
    with pytest.raises(kind, match=message):
        embedder.embed(item, role="query", think=Think(max_tokens=8))


def test_pictures_that_are_fine(embedder: Embedder, tmp_path: Path) -> None:
    path = tmp_path / "a picture.PNG"
    path.write_bytes(png())
    same = [path, str(path), png(), Image.open(path), np.asarray(Image.open(path))]
    vectors = embedder.encode_query(same, think=False)
    assert np.abs(vectors - vectors[0]).max() < 1e-6
    odd = [Image.new("L", (1, 1)), Image.new("RGBA", (90, 1)), Image.new("P", (3, 200)), Image.new("1", (30, 30))]
    assert embedder.encode_query(odd, think=False).shape[0] == len(odd)


def test_texts_that_are_fine(embedder: Embedder) -> None:
    texts = ["{text} {media}", "naïve café 你好 🍕", "\x00\x01", "a.pngx", "line.png\nbreak", "<think> < im_end >"]
    good = [text for text in texts if "<think>" not in text]
    assert embedder.encode_query(good, think=False).shape[0] == len(good)


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": -1},
        {"deadline_ms": -5},
        {"deadline_ms": float("nan")},
        {"temperature": -0.1},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
    ],
)
def test_thinking_options(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="must be"):
        Think(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batchsize": 3}, "Known: device"),
        ({"max_batch_size": 0}, "positive integer"),
        ({"max_prefill_tokens": 1.5}, "positive integer"),
        ({"dtype": "float8"}, "Known: auto, float32"),
        ({"device": "tpu"}, "device"),
        ({"kernels": "cuda"}, "Known: auto, triton, numba, torch"),
        ({"kernels": "triton", "device": "cpu"}, "needs a GPU"),
        ({"device": "cuda:99"}, "CUDA|device"),
        ({"max_context": 10**9}, "max_context must be <="),
        ({"vision_cache_mb": -1}, ">= 0"),
        ({"recipe": "ume_r2"}, "Known: tte_u, tte_s"),
    ],
)
def test_engine_options(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises((OptionError, RecipeError), match=message):
        Embedder.from_pretrained("tte-tiny", **options)


def broken(tmp_path: Path, change: Any) -> Path:
    folder = tmp_path / "checkpoint"
    shutil.copytree(find_folder("tte-tiny"), folder)
    change(folder)
    return folder


def rewrite(name: str, **fields: Any) -> Any:
    def change(folder: Path) -> None:
        entry = json.loads((folder / name).read_text())
        entry.update(fields)
        (folder / name).write_text(json.dumps(entry))

    return change


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda f: (f / "config.json").unlink(), CheckpointError, "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), CheckpointError, "no JSON"),
        (rewrite("config.json", model_type="bert"), UnsupportedModelError, "Supported: llama, qwen2"),
        (lambda f: (f / "model.safetensors").unlink(), CheckpointError, "neither model.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"xx"), CheckpointError, "no readable safetensors"),
        (lambda f: (f / "head.safetensors").unlink(), CheckpointError, "head.safetensors is missing"),
        (lambda f: (f / "tokenizer.json").unlink(), CheckpointError, "tokenizer"),
        (lambda f: (f / "preprocessor_config.json").unlink(), CheckpointError, "preprocessor_config.json"),
        (lambda f: (f / "tte.json").unlink(), RecipeError, "Name a recipe"),
        (lambda f: (f / "tte.json").write_text("[]"), RecipeError, "JSON object"),
        (rewrite("tte.json", recipe="other"), RecipeError, "unknown recipe"),
        (rewrite("tte.json", stop=["<nowhere>"]), RecipeError, "as one token"),
        (rewrite("tte.json", roles={}), RecipeError, "no prompt for"),
        (rewrite("tte.json", surprise=1), RecipeError, "unknown field"),
        (rewrite("tte.json", head={"kind": "mlp"}), CheckpointError, "unknown head kind"),
    ],
)
def test_folders(tmp_path: Path, change: Any, kind: type[TteError], message: str) -> None:
    with pytest.raises(kind, match=message):
        Embedder.from_pretrained(broken(tmp_path, change))


def test_a_tensor_of_another_shape(tmp_path: Path) -> None:
    def narrower(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["text_config"]["intermediate_size"] += 8
        (folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(CheckpointError, match="the config says"):
        Embedder.from_pretrained(broken(tmp_path, narrower))


def test_names_of_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no folder"):
        Embedder.from_pretrained("tte-huge")
    with pytest.raises(CheckpointError, match="no folder"):
        Embedder.from_pretrained(tmp_path / "nothing here")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        Embedder.from_pretrained(tmp_path)
