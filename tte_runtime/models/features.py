"""Vision features by content: a picture that was seen before does not go through the tower again.

Knows keys, patches and a tower; knows nothing of prompts and pages.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

import torch

from tte_runtime.models.vision import VisionTower


class HasPatches(Protocol):
    """What a picture's handle must offer."""

    pixels: torch.Tensor
    grid: tuple[int, int, int]
    key: bytes


class FeatureCache:
    """The tower behind a cache of limited size, the least recently used leaving first.

    Args:
        tower: makes the features that are not there.
        max_bytes: what is kept at most; 0 keeps nothing.
    """

    def __init__(self, tower: VisionTower, max_bytes: int) -> None:
        self.tower = tower
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[bytes, torch.Tensor] = OrderedDict()

    def features(self, pictures: list[HasPatches]) -> list[tuple[torch.Tensor, bool]]:
        """For every picture what the tower gives, and whether it ran for it; each picture runs once a call."""
        missing = {picture.key: picture for picture in pictures if picture.key not in self._kept}
        made = dict(
            zip(
                missing,
                self.tower.encode([p.pixels for p in missing.values()], [p.grid for p in missing.values()]),
                strict=True,
            )
        )
        found = []
        for picture in pictures:
            computed = missing.pop(picture.key, None) is not None
            if picture.key in made:
                states = made[picture.key]
            else:
                states = self._kept[picture.key]
                self._kept.move_to_end(picture.key)
            found.append((states, computed))
        for key, states in made.items():
            self._keep(key, states)
        return found

    def clear(self) -> None:
        """Forget everything, as a cold start would."""
        self._kept.clear()
        self._bytes = 0

    def _keep(self, key: bytes, states: torch.Tensor) -> None:
        size = states.numel() * states.element_size()
        if size > self._max_bytes:
            return
        self._kept[key] = states.clone()  # a view would keep the whole batch alive
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.numel() * oldest.element_size()
