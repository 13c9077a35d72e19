"""Random checkpoints, an embedder's and two reasoners', and requests for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from systems_harness import make_checkpoint


@pytest.fixture(scope="session")
def embedder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("embedder"), seed=1, layers=3)


@pytest.fixture(scope="session")
def reasoner_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its tokenizer, processor and tower are the embedder's, its decoder is not."""
    return make_checkpoint(tmp_path_factory.mktemp("reasoner"), seed=2)


@pytest.fixture(scope="session")
def stranger_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reasoner of another tower, another processor, and a tokenizer whose ids mean other words."""
    folder = make_checkpoint(tmp_path_factory.mktemp("stranger"), seed=3, tower_seed=9)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocab, special = tokenizer["model"]["vocab"], {token["content"] for token in tokenizer["added_tokens"]}
    words = [word for word in vocab if word not in special]
    swapped = dict(zip(words, [vocab[word] for word in reversed(words)], strict=True))
    tokenizer["model"]["vocab"] = vocab | swapped
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"image_mean": [0.5, 0.4, 0.3]}))
    return folder


@pytest.fixture(scope="session")
def items() -> list[Any]:
    """Texts, a picture, two pictures."""
    rng = np.random.default_rng(5)

    def picture(height: int, width: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))

    return [
        "one two three",
        {"image": picture(57, 31), "text": "what is it?"},
        {"images": [picture(33, 120), picture(28, 28)], "text": "compare"},
        "a longer text, with some 30 words in it: " + " ".join(str(n) for n in range(30)),
    ]
