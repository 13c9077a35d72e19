"""Scenes and pictures with their features already computed by the finished tower, so that later stages pay
for drawing once.

An entry is a pure function of (seed, split, index). Knows nothing of questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from tte_runtime.scenes import pictures
from tte_runtime.scenes.draw import draw_picture, draw_scene
from tte_runtime.scenes.split import Split, split_scene
from tte_runtime.scenes.world import Scene
from tte_runtime.training.loop import keep
from tte_runtime.training.tower import MAX_SIDE_PX, MIN_SIDE_PX
from tte_runtime.training.vision import patches_of, shrink, tower_features

CHUNK = 64
STREAM = {"train": 1, "test": 2}


@dataclass(frozen=True)
class Bank:
    """Scenes with features [16, C] each, and for every picture name several renderings of 4, 9 or 16
    features.
    """

    scenes: list[Scene]
    scene_features: Tensor
    picture_features: dict[str, list[Tensor]]

    def a_picture(self, name: str, rng: np.random.Generator) -> Tensor:
        """The features of a random rendering of `name`, [n, C]."""
        renderings = self.picture_features[name]
        return renderings[int(rng.integers(len(renderings)))]


def scene_at(seed: int, split: Split, index: int) -> tuple[Scene, np.random.Generator]:
    """Scene number `index` of a split, and the generator that its drawing goes on with."""
    rng = np.random.default_rng([seed, 100 + STREAM[split], index])
    return split_scene(rng, split), rng


@torch.no_grad()
def features_of(tower: Qwen2VisionTransformerPretrainedModel, pixels: list[np.ndarray]) -> list[Tensor]:
    """Features of uint8 pictures of any processor size, each [n, C] in bfloat16 on the CPU, in the order
    given.
    """
    result: list[Tensor | None] = [None] * len(pixels)
    device = next(tower.parameters()).device
    for side in sorted({one.shape[0] for one in pixels}):
        rows = [index for index, one in enumerate(pixels) if one.shape[0] == side]
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            features = tower_features(tower, patches_of(np.stack([pixels[row] for row in chunk])).to(device))
            for row, one in zip(chunk, features.to("cpu", torch.bfloat16), strict=True):
                result[row] = one.clone()
    assert all(one is not None for one in result)
    return [one for one in result if one is not None]


def make_bank(
    tower: Qwen2VisionTransformerPretrainedModel,
    file: Path,
    *,
    seed: int,
    split: Split,
    scenes: int,
    renderings: int,
) -> Bank:
    """Draw and encode `scenes` scenes and `renderings` of every picture; features are kept in `file` for a
    resumed run.
    """
    worlds = [scene_at(seed, split, index) for index in range(scenes)]
    if not file.is_file():
        boards: list[Tensor] = []
        for start in range(0, scenes, 1024):
            boards += features_of(
                tower, [shrink(draw_scene(scene, rng)) for scene, rng in worlds[start : start + 1024]]
            )
        state = {"scenes": torch.stack(boards)}
        for number, name in enumerate(pictures.names()):
            rng = np.random.default_rng([seed, 200 + STREAM[split], number])
            sides = rng.integers(MIN_SIDE_PX, MAX_SIDE_PX + 1, renderings)
            drawn = [shrink(draw_picture(name, int(side), rng)) for side in sides]
            for index, one in enumerate(features_of(tower, drawn)):
                state[f"{name}.{index}"] = one
        keep(state, file)
    state = load_file(file)
    single = {name: [state[f"{name}.{index}"] for index in range(renderings)] for name in pictures.names()}
    return Bank([scene for scene, _ in worlds], state["scenes"], single)
