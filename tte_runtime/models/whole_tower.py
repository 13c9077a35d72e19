"""A whole vision tower of Qwen2-VL's, as a backend takes it that runs it as one call.

Stands for transformers' module; knows its names, and no kernel. The towers of later families attend in windows or hand
out states on the way, so only their blocks are fused (tower_blocks.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tte_runtime.models.recent import Recent
from tte_runtime.models.tower_blocks import affine, read_block
from tte_runtime.ops import TorchOps
from tte_runtime.ops.rows.tower import RowTower, Tower

FAMILY = "qwen2_vl_vision"
ANGLES = 2**22  # elements of angles that are kept: 32 MB with their cosines and sines

Turns = tuple[NDArray[np.float32], NDArray[np.float32]]


class WholeTower(torch.nn.Module):
    """Stands for a tower of transformers.

    Args:
        fused: its weights, copied.
        config: of the tower.
        frequencies: float32 [D / 4], of the positions in a column and in a row.
    """

    def __init__(self, fused: RowTower, config: Any, frequencies: torch.Tensor) -> None:
        super().__init__()
        self.fused, self.config = fused, config
        self._frequencies, self._merge = frequencies, config.spatial_merge_size
        self._turns: Recent[tuple[int, int], Turns] = Recent(ANGLES, lambda turn: turn[0].size)

    def forward(self, patches: torch.Tensor, grid_thw: torch.Tensor) -> torch.Tensor:
        """float32 [N, I], int [S, 3] -> [N / merge**2, O]."""
        frames = [(h, w) for t, h, w in grid_thw.tolist() for _ in range(t)]
        turns = [self._turns.get(frame, self._turn) for frame in frames]
        cos, sin = turns[0] if len(turns) == 1 else (np.concatenate(part) for part in zip(*turns, strict=True))
        bounds = np.cumsum([0, *(h * w for h, w in frames)])
        return self.fused.forward(patches, cos, sin, bounds)

    def _turn(self, frame: tuple[int, int]) -> Turns:
        """Cosines and sines [h * w, D / 2] of a frame's patches, in the order of merged ones."""
        (height, width), merge = frame, self._merge
        shape = (height // merge, merge, width // merge, merge)
        places = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        angles = [place.reshape(shape).transpose(1, 2).flatten()[:, None] * self._frequencies for place in places]
        turned = torch.cat(angles, dim=1)
        return turned.cos().numpy(), turned.sin().numpy()


def fuse_tower(tower: Any, ops: TorchOps) -> WholeTower | None:
    """What stands for a tower of transformers; `None` where it is another family's, or the backend has no such call."""
    if tower.config.model_type != FAMILY:
        return None
    blocks = [read_block(block, tower.config) for block in tower.blocks]
    known = [block for block in blocks if block is not None]
    if not known or len(known) < len(blocks):
        return None
    merger = tower.merger
    read = Tower(
        patches=tower.patch_embed.proj.weight.detach().flatten(1),
        blocks=tuple(known),
        norm=affine(merger.ln_q),
        eps=merger.ln_q.eps,
        first=affine(merger.mlp[0]),
        second=affine(merger.mlp[2]),
    )
    fused = ops.fuse_tower(read)
    return None if fused is None else WholeTower(fused, tower.config, tower.rotary_pos_emb.inv_freq)
