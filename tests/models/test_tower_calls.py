"""How many pictures go through a tower at once: one where its products depend on how many there are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import make_config, save
from torch import nn

from tte_runtime.models.checkpoint import Checkpoint, read_config
from tte_runtime.models.vision import VisionTower
from tte_runtime.models.weights import TensorFiles
from tte_runtime.ops import TorchOps
from tte_runtime.ops.triton_ops import TritonOps

GRIDS = [(1, 4, 4), (1, 2, 6)]


@pytest.mark.parametrize(("ops", "calls"), [(TorchOps(), [28]), (TritonOps(), [16, 12])], ids=["torch", "kernels"])
def test_with_our_kernels_every_picture_goes_alone(tmp_path: Path, ops: TorchOps, calls: list[int]) -> None:
    folder = save(tmp_path / "base", make_config("qwen2_vl"))
    config = read_config(Checkpoint.of(folder))
    tower = VisionTower(config, TensorFiles(folder), ops, device="cpu", dtype=torch.float32)
    inner, seen = tower._tower, []

    class Watched(nn.Module):
        def forward(self, patches: torch.Tensor, grid_thw: torch.Tensor) -> object:
            seen.append(len(patches))
            return inner(patches, grid_thw=grid_thw)

    tower._tower = Watched()
    vision = config.vision_config
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
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
