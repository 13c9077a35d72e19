"""What a tower of transformers derives from the grids of its pictures, worked out on the host and kept.

Left to itself a tower asks the device for the lengths of its sequences, in every block again, so the host waits for
everything that is queued there. Grids are known on the host, and many pictures have the same one. Knows the towers'
arguments; knows no pixels and no weights.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import vision_utils

from tte_runtime.models.recent import Recent
from tte_runtime.ops.transfer import upload

Grids = tuple[tuple[int, int, int], ...]  # (t, h, w) in patches, before merging

KEPT = 2**17  # patches, at most 8 MB


class GridArguments:
    """Keyword arguments for a tower's forward, by grids.

    Args:
        tower: a vision tower of transformers.
        device: where it runs.
    """

    def __init__(self, tower: Any, device: torch.device) -> None:
        self._tower = tower
        self._device = device
        self._kept: Recent[Grids, dict[str, torch.Tensor]] = Recent(KEPT, lambda told: len(told["position_ids"]))

    def of(self, grids: Grids) -> dict[str, torch.Tensor]:
        """What the tower is called with beside the patches of these pictures."""
        return self._kept.get(grids, self._make)

    def _make(self, grids: Grids) -> dict[str, torch.Tensor]:
        tower, grid = self._tower, torch.tensor(grids)
        merge = tower.config.spatial_merge_size
        on_host = {"grid_thw": grid, "cu_seqlens": vision_utils.get_vision_cu_seqlens(grid)}
        made = {"position_ids": vision_utils.get_vision_position_ids(grid, merge)}
        if hasattr(tower, "window_size"):  # Qwen2.5-VL
            made["window_index"], on_host["cu_window_seqlens"] = vision_utils.get_vision_window_index(
                grid, merge, tower.window_size, tower.patch_size
            )
        if hasattr(tower, "num_grid_per_side"):  # Qwen3-VL
            made |= _interpolation(tower, grid, merge)
        return on_host | {name: upload(tensor, self._device) for name, tensor in made.items()}


def _interpolation(tower: Any, grid: torch.Tensor, merge: int) -> dict[str, torch.Tensor]:
    """How learned positions are read at a picture's own resolution; transformers has renamed it on the way."""
    options = {"num_grid_per_side": tower.num_grid_per_side, "spatial_merge_size": merge}
    if hasattr(tower, "interpolation_mode"):
        options |= {"mode": tower.interpolation_mode, "align_corners": tower.interpolation_align_corners}
        made = vision_utils.get_vision_interpolation_indices_and_weights(grid, **options)
        return dict(zip(("interp_indices", "interp_weights"), made, strict=True))
    made = vision_utils.get_vision_bilinear_indices_and_weights(grid, **options)
    return dict(zip(("bilinear_indices", "bilinear_weights"), made, strict=True))
