"""Arms: small files lose next to nothing, and what is put together from them serves the vectors that training saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLForConditionalGeneration

from tte_runtime import Embedder, LocalReasoner
from tte_runtime.errors import CheckpointError, OptionError
from tte_runtime.evaluation.arms import ARMS, assemble, read_arm, seeds, write_arm
from tte_runtime.models.checkpoint import find_folder
from tte_runtime.scenes.draw import draw_scene
from tte_runtime.scenes.world import Scene
from tte_runtime.training.arms import ARMS as TRAINED
from tte_runtime.training.arms import DecoderEmbedder
from tte_runtime.training.blueprint import build_tokenizer
from tte_runtime.training.contests import Item
from tte_runtime.training.tokens import Encoder
from tte_runtime.training.vision import patches_of, shrink, tower_features

ARMS_OF_A_CLONE = Path(__file__).parents[2] / "benchmarks" / "arms"
BOARD = Scene.parse("a1 cat b2 pizza d4 car")
TRACE = "<think> b2 pizza </think> pizza"


@pytest.fixture(scope="module")
def trained() -> Qwen2VLForConditionalGeneration:
    """The bundled model with a decoder that is another one: what training would have left."""
    model = Qwen2VLForConditionalGeneration.from_pretrained(find_folder("tte-tiny"), dtype=torch.float32).eval()
    torch.manual_seed(3)
    for parameter in model.model.language_model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def folder(trained: Qwen2VLForConditionalGeneration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arms")
    for arm in ("direct", "looped", "embedder"):
        write_arm(folder / "seed0" / f"{arm}.npz", trained.model.language_model.state_dict())
    return folder


def test_a_file_loses_little_and_takes_less_than_a_byte_a_weight(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {"wide": torch.randn(300, 200), "bias": torch.randn(300), "outlier": torch.randn(4, 64)}
    state["outlier"][0, 0] = 40.0
    write_arm(tmp_path / "arm.npz", state)
    again = read_arm(tmp_path / "arm.npz")
    assert (again["wide"] - state["wide"]).norm() < 0.02 * state["wide"].norm()
    assert torch.equal(again["bias"], state["bias"].to(torch.bfloat16))
    assert again["outlier"][0, 0].item() == pytest.approx(40.0, rel=0.01)
    assert (tmp_path / "arm.npz").stat().st_size < 300 * 200


@torch.no_grad()
@pytest.mark.parametrize("arm", ["direct", "looped", "embedder"])
def test_what_is_served_is_what_was_trained(
    arm: str, folder: Path, trained: Qwen2VLForConditionalGeneration, tmp_path: Path
) -> None:
    encoder = Encoder(build_tokenizer())
    embedder = DecoderEmbedder(trained, TRAINED[arm].loops)
    embedder.decoder.load_state_dict({k: v.float() for k, v in read_arm(folder / "seed0" / f"{arm}.npz").items()})
    pixels = shrink(draw_scene(BOARD, np.random.default_rng(0)))
    image = Image.fromarray(pixels)  # as large as it is served, as PIL and torchvision resize to other grey levels
    features = tower_features(trained.model.visual, patches_of(pixels[None]))[0]
    item: dict[str, Any] = {"image": image, "text": "what is at b2 ?"}
    thought: list[int] = []
    if TRAINED[arm].traces:
        item["trace"] = TRACE
        thought = encoder.trace(TRACE)
    ids = [*encoder.prompt("query", item["text"], len(features)), *thought, encoder.suffix]
    wanted = embedder.embed([Item(ids, features)], encoder)[0].numpy()
    with Embedder.from_pretrained(assemble(folder, 0, arm, tmp_path / arm)) as served:
        got = served.embed(item, role="query").vector
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_the_bundled_model_is_seed_0_and_writes_the_traces_of_two_models(
    folder: Path, tmp_path: Path, tiny: Embedder
) -> None:
    item = {"image": draw_scene(BOARD, np.random.default_rng(0)), "text": "what is at b2 ?"}
    alone = tiny.embed(item, role="query")
    whole = assemble(folder, 0, "decoder_layers", tmp_path / "whole")
    with Embedder.from_pretrained(whole) as unified:
        np.testing.assert_array_equal(unified.embed(item, role="query").vector, alone.vector)
    reasoner = LocalReasoner(assemble(folder, 0, "reasoner", tmp_path / "reasoner"))
    with Embedder.from_pretrained(assemble(folder, 0, "embedder", tmp_path / "two"), reasoner=reasoner) as two:
        assert two.embed(item, role="query").trace == alone.trace


def test_what_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    assert seeds(folder) == [0]
    with pytest.raises(OptionError, match="one of " + ", ".join(ARMS)):
        assemble(folder, 0, "larger", tmp_path / "x")
    with pytest.raises(CheckpointError, match=r"qformer\.npz is missing"):
        assemble(folder, 0, "qformer", tmp_path / "x")
    with pytest.raises(OptionError, match="no arms in"):
        seeds(tmp_path / "nowhere")
    damaged = tmp_path / "arms" / "seed0" / "direct.npz"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"no zip")
    with pytest.raises(CheckpointError, match="cannot be read"):
        assemble(tmp_path / "arms", 0, "direct", tmp_path / "x")


@pytest.mark.parametrize(("arm", "seed"), [("direct", 0), ("qformer", 0), ("decoder_layers", 1)])
def test_a_file_of_other_weights_is_no_arm(arm: str, seed: int, tmp_path: Path) -> None:
    good, place = ARMS_OF_A_CLONE / f"seed{seed}" / f"{arm}.npz", tmp_path / f"seed{seed}" / f"{arm}.npz"
    state = read_arm(good)
    name = min(state)
    for damaged, told in (
        ({"zz": torch.ones(2, 2)}, f"the first is '{name}': there is nothing"),
        ({**state, "zz": torch.ones(2)}, r"1 of .* 'zz': there is \[2\], and there must be nothing"),
        ({key: value for key, value in state.items() if key != name}, f"'{name}': there is nothing, and there must"),
        ({**state, name: state[name][:-1]}, f"1 of .* '{name}': there is "),
    ):
        write_arm(place, damaged)
        with pytest.raises(CheckpointError, match=f"is damaged: .*{told}"):
            assemble(tmp_path, seed, arm, tmp_path / "out")


def test_other_folders_are_no_seeds(tmp_path: Path) -> None:
    for name in ("seedX", "seed01", "seed", "seed12", "seed3"):
        (tmp_path / name).mkdir()
    assert seeds(tmp_path) == [3, 12]


def test_looped_layers_stand_behind_each_other(folder: Path, tmp_path: Path) -> None:
    config = json.loads((assemble(folder, 0, "looped", tmp_path / "looped") / "config.json").read_text("utf-8"))
    assert config["text_config"]["num_hidden_layers"] == len(config["text_config"]["layer_types"]) == 12
