"""Stage 0: the vision tower alone learns to name what it sees, by supervision of every merged token.

A merged token of a board must say its picture's name ("empty" where there is none) and its cell's printed
name; a merged token of a single picture says that picture's name and "picture". Both are read by a dot
product with a table of word vectors, which then become the decoder's token embeddings: a feature is close
to the sum of two words that the decoder already knows, so its look-ups start easy. Without this stage a
decoder trained on multi-hop answers learns their form and recognises nothing. Knows nothing of questions or
traces.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from tte_runtime.scenes import pictures
from tte_runtime.scenes.draw import draw_picture, draw_scene
from tte_runtime.scenes.split import Split, split_scene
from tte_runtime.scenes.world import CELLS
from tte_runtime.training.loop import autocast, fit, in_words, keep, say
from tte_runtime.training.vision import patches_of, shrink, tower_features

EMPTY, ALONE = "empty", "picture"


@dataclass(frozen=True)
class Round:
    """One cosine run: its steps, its highest learning rate, and the share of boards among the pictures."""

    steps: int
    learning_rate: float
    scene_share: float


# The second round, with more single pictures, takes held-out cells from 99.35 % right to about 99.5 %.
ROUNDS = (Round(2000, 1.2e-3, 0.7), Round(1200, 7e-4, 0.55))
MIN_SIDE_PX, MAX_SIDE_PX = 56, 224


def contents() -> list[str]:
    """The words for what is in a cell; the label of a merged token is an index into this list."""
    return [*pictures.names(), EMPTY]


def places() -> list[str]:
    """The words for where a merged token is: sixteen cells, or alone."""
    return [*CELLS, ALONE]


@dataclass(frozen=True)
class Example:
    """One picture at the processor's size: uint8 [side, side, 3], and per merged token the labels (content,
    place).
    """

    pixels: np.ndarray
    labels: np.ndarray


def make_example(rng: np.random.Generator, split: Split, scene_share: float = 0.7) -> Example:
    """A board (mostly) or a single picture of 4, 9 or 16 merged tokens, with its labels."""
    if rng.random() < scene_share:
        scene = split_scene(rng, split)
        content = scene.content
        names = contents()
        labels = [(names.index(content.get(cell, EMPTY)), index) for index, cell in enumerate(CELLS)]
        return Example(shrink(draw_scene(scene, rng)), np.asarray(labels))
    name = int(rng.integers(len(pictures.names())))
    pixels = shrink(draw_picture(pictures.names()[name], int(rng.integers(MIN_SIDE_PX, MAX_SIDE_PX + 1)), rng))
    tokens = (pixels.shape[0] // 28) ** 2
    return Example(pixels, np.tile([name, len(CELLS)], (tokens, 1)))


def collate(examples: list[Example]) -> dict[str, Any]:
    """Examples grouped by size: {"groups": [(uint8 pixels [B, s, s, 3], labels [B, s*s/784, 2]), ...]}."""
    sides = sorted({example.pixels.shape[0] for example in examples})
    groups = []
    for side in sides:
        same = [example for example in examples if example.pixels.shape[0] == side]
        groups.append(
            (
                np.stack([example.pixels for example in same]),
                torch.from_numpy(np.stack([example.labels for example in same])),
            )
        )
    return {"groups": groups}


class NamingTower(nn.Module):
    """The tower with its two naming tables, [97, C] and [17, C]."""

    def __init__(self, tower: Qwen2VisionTransformerPretrainedModel, width: int) -> None:
        super().__init__()
        self.tower = tower
        self.content = nn.Parameter(torch.randn(len(contents()), width) * 0.1)
        self.place = nn.Parameter(torch.randn(len(places()), width) * 0.1)

    def logits(self, pixels: np.ndarray) -> tuple[Tensor, Tensor]:
        """uint8 [B, s, s, 3] -> content logits [B, n, 97] and place logits [B, n, 17], fp32."""
        features = tower_features(self.tower, patches_of(pixels).to(self.content.device)).float()
        return features @ self.content.T, features @ self.place.T

    def forward(self, groups: list[tuple[np.ndarray, Tensor]]) -> dict[str, Tensor]:
        total = torch.zeros((), device=self.content.device)
        count = 0
        for pixels, labels in groups:
            labels = labels.to(self.content.device)
            with autocast(self.content.device.type):
                content, place = self.logits(pixels)
            # Weighted so that a single picture counts as much as a few cells, whatever its size.
            total = total + F.cross_entropy(content.flatten(0, 1).float(), labels[..., 0].flatten(), reduction="sum")
            total = total + F.cross_entropy(place.flatten(0, 1).float(), labels[..., 1].flatten(), reduction="sum")
            count += labels.shape[0] * labels.shape[1]
        return {"loss": total / count}


@torch.no_grad()
def naming_accuracy(model: NamingTower, seed: int, count: int) -> dict[str, float]:
    """Share of right merged tokens on held-out boards and pictures: occupied cells, empty cells, places,
    single pictures.
    """
    right: dict[str, list[float]] = {"occupied": [], "empty": [], "place": [], "alone": []}
    examples = [make_example(np.random.default_rng([seed, 901, index]), "test") for index in range(count)]
    for pixels, labels in collate(examples)["groups"]:
        content, place = model.logits(pixels)
        content_right = (content.argmax(-1).cpu() == labels[..., 0]).float()
        alone = labels[..., 1] == len(CELLS)
        empty = labels[..., 0] == len(contents()) - 1
        right["alone"] += content_right[alone].tolist()
        right["empty"] += content_right[~alone & empty].tolist()
        right["occupied"] += content_right[~alone & ~empty].tolist()
        right["place"] += (place.argmax(-1).cpu() == labels[..., 1]).float().flatten().tolist()
    return {kind: float(np.mean(values)) for kind, values in right.items() if values}


def train_tower(
    tower: Qwen2VisionTransformerPretrainedModel,
    width: int,
    folder: Path,
    *,
    rounds: tuple[Round, ...] = ROUNDS,
    batch_size: int = 32,
    seed: int,
    device: str = "cpu",
    check_examples: int = 600,
) -> NamingTower:
    """Train (or load, round by round, what `folder` has finished) the tower in place and return it with its
    tables.
    """
    torch.manual_seed(seed)
    model = NamingTower(tower, width).to(device)
    for number, plan in enumerate(rounds):
        done = folder / f"tower{number}.safetensors"
        if not done.is_file():

            def make(index: int, number: int = number, plan: Round = plan) -> Example:
                return make_example(np.random.default_rng([seed, number, index]), "train", plan.scene_share)

            fit(
                f"tower, round {number + 1}",
                model.train(),
                make,
                collate,
                folder / f"run{number}",
                steps=plan.steps,
                batch_size=batch_size,
                learning_rate=plan.learning_rate,
                seed=seed,
                device=device,
            )
            figures = naming_accuracy(model.eval(), seed, check_examples)
            say(f"tower: held-out accuracy {in_words(figures)}")
            keep(model.state_dict(), done)
        model.load_state_dict(load_file(done))
    return model.eval()
