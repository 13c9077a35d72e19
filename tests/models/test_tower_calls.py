"""How a tower is called: with one picture where its products depend on how many there are, told what grids decide."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch
from checkpoints import make_config, save
from torch import nn

from tte_runtime.models.checkpoint import Checkpoint, read_config
from tte_runtime.models.grids import GridArguments
from tte_runtime.models.vision import VisionTower, planes_of
from tte_runtime.models.weights import TensorFiles
from tte_runtime.ops import TorchOps
from tte_runtime.ops.triton_ops import TritonOps

GRIDS = [(1, 4, 4), (1, 2, 6)]
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def load(folder: Path, family: str, ops: TorchOps) -> tuple[VisionTower, int]:
    """A tower, and how many values a patch has."""
    config = read_config(Checkpoint.of(save(folder, make_config(family))))
    vision = config.vision_config
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return VisionTower(config, TensorFiles(folder), ops, device="cpu", dtype=torch.float32), width


@torch.inference_mode()
@pytest.mark.parametrize("grids", [[(1, 4, 4)], [(1, 12, 8), (3, 4, 10), (1, 2, 2)]], ids=["one", "several"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_grids_decide_is_what_the_tower_would_find_itself(
    tmp_path: Path, family: str, grids: list[tuple[int, int, int]]
) -> None:
    tower, width = load(tmp_path / "base", family, TorchOps())
    arguments = GridArguments(tower._tower, torch.device("cpu"))
    patches = torch.randn(sum(t * h * w for t, h, w in grids), width)
    alone = planes_of(tower._tower(patches, grid_thw=torch.tensor(grids)))
    told = arguments.of(tuple(grids))
    assert torch.equal(planes_of(tower._tower(patches, **told)), alone)
    assert arguments.of(tuple(grids)) is told, "it was worked out anew"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tower_is_gone_with_the_last_who_holds_it(tmp_path: Path, family: str) -> None:
    """Where reasoner and embedder have equal towers one of them is let go, and its memory is needed at once."""
    tower, width = load(tmp_path / "base", family, TorchOps())
    tower.encode([torch.randn(16, width)], [(1, 4, 4)])
    weight = weakref.ref(next(tower._tower.parameters()))
    gc.collect()
    gc.disable()
    try:
        del tower
        assert weight() is None, "a cycle holds it"
    finally:
        gc.enable()


@pytest.mark.parametrize(("ops", "calls"), [(TorchOps(), [28]), (TritonOps(), [16, 12])], ids=["torch", "kernels"])
def test_with_our_kernels_every_picture_goes_alone(tmp_path: Path, ops: TorchOps, calls: list[int]) -> None:
    tower, width = load(tmp_path / "base", "qwen2_vl", ops)
    inner, seen = tower._tower, []

    class Watched(nn.Module):
        def forward(self, patches: torch.Tensor, **told: torch.Tensor) -> object:
            seen.append(len(patches))
            return inner(patches, **told)

    tower._tower = Watched()
    torch.manual_seed(2)
    pictures = [torch.randn(16, width), torch.randn(12, width)]
    together = tower.encode(pictures, GRIDS)
    assert seen == calls and [len(features) for features in together] == [4, 3]
    for picture, grid, features in zip(pictures, GRIDS, together, strict=True):
        (alone,) = tower.encode([picture], [grid])
        if len(calls) == 2:
            assert torch.equal(alone, features), "a picture's features depend on the one beside it"
        else:
            torch.testing.assert_close(alone, features, rtol=1e-5, atol=1e-5)
