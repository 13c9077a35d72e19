"""The backend of a CPU: all layers of a step in one compiled call. Imports no Numba until one is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tte_kernels.sample.reference import mark_stops, sample_logits
from tte_runtime.ops.layout import Draw, Pooling
from tte_runtime.ops.matrices import Dense, Kept
from tte_runtime.ops.prefill import Prefill
from tte_runtime.ops.rows.output import RowOutput, compiling
from tte_runtime.ops.rows.packing import Layer
from tte_runtime.ops.rows.product import PanelMatrix
from tte_runtime.ops.rows.stack import RowRotation, RowShape, RowStack
from tte_runtime.ops.rows.team import Team
from tte_runtime.ops.rows.tower import Block, RowBlock, RowTower, Tower
from tte_runtime.ops.torch_ops import TorchOps, norm_rows


class NumbaOps(TorchOps):
    """`TorchOps` whose layers are one compiled call, and whose output embeddings are another.

    In float32 that call takes prompts as well, and a row's bits do not depend on its neighbours, on chunks or threads.
    In bfloat16 prompts stay with torch, whose products use a CPU's own bfloat16 instructions.

    Args:
        threads: as many as a step may use.
        dtype: of weights and states.
        prefill: as for `TorchOps`; prompts then stay with torch.
        weights: as for `TorchOps`.
    """

    name = "numba"

    def __init__(
        self,
        threads: int,
        dtype: torch.dtype = torch.float32,
        prefill: Prefill | None = None,
        weights: str = "w16",
    ) -> None:
        super().__init__(weights, prefill)
        self._prompts = dtype == torch.float32 and prefill is None
        self._team = Team(threads)
        from tte_runtime.ops.rows import finishing  # imports Numba

        self._finish = finishing.finish
        with compiling("finishing vectors"):
            one = torch.ones(1, 1, dtype=torch.float32)
            self.pool_normalize(one, one[0], 1e-6, Pooling.of([1], [1], [True], one.device))

    def pack(self, weight: torch.Tensor) -> Any:
        """A matrix [O, I] in the form that linear ops take."""
        return PanelMatrix(weight, self._team) if self._prompts else super().pack(weight)

    def pack_layer(self, weight: torch.Tensor) -> Any:
        """As it is, where nothing but the compiled call will read it."""
        return Dense(weight) if self._prompts else self.pack(weight)

    def pack_tower(self, weight: torch.Tensor) -> Kept | None:
        """A matrix [O, I] of a tower."""
        return PanelMatrix(weight, self._team) if self._prompts else super().pack_tower(weight)

    def pack_output(self, weight: torch.Tensor) -> Any:
        """The output embeddings [V, C] in the form that `next_tokens` takes."""
        return RowOutput(weight, self._team, self.weights)

    def fuse(
        self, layers: Sequence[Layer], shape: RowShape, rotation: RowRotation, *, decodes: bool
    ) -> RowStack | None:
        """All layers as one call; `None` where it would take prompts only, and torch takes them."""
        if not (decodes or self._prompts):
            return None
        return RowStack(layers, shape, rotation, self._team, prompts=self._prompts, weights=self.weights)

    def fuse_block(self, block: Block) -> RowBlock | None:
        """A block of a vision tower as one call, in float32."""
        return RowBlock(block, self._team) if self._prompts else None

    def fuse_tower(self, tower: Tower) -> RowTower | None:
        """A whole vision tower as one call, in float32."""
        return RowTower(tower, self._team) if self._prompts else None

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """As `TorchOps.rms_norm`, one row in the order of many."""
        return norm_rows(x, weight, eps)

    def next_tokens(
        self, hidden: torch.Tensor, norm: torch.Tensor, eps: float, weight: Any, draw: Draw
    ) -> torch.Tensor:
        """As `TorchOps.next_tokens`."""
        if draw.greedy:
            return mark_stops(weight.likeliest(hidden, norm, eps), draw.stop_ids)
        logits = torch.from_numpy(weight.scores(hidden, norm, eps))
        return sample_logits(logits, *draw.columns, draw.top_k, draw.top_p)

    def pool_normalize(self, hidden: torch.Tensor, norm: torch.Tensor, eps: float, pooling: Pooling) -> torch.Tensor:
        """As `TorchOps.pool_normalize`."""
        if hidden.dtype != torch.float32:
            return super().pool_normalize(hidden, norm, eps, pooling)
        vectors = np.zeros((len(pooling.dims), hidden.shape[1]), np.float32)
        bounds, dims, normalize = pooling.cu_seqlens.numpy(), pooling.dims.numpy(), pooling.normalize.numpy()
        states = hidden.contiguous().numpy()
        self._finish(states, norm.numpy(), np.float32(eps), bounds, dims, normalize, pooling.mean, vectors)
        return torch.from_numpy(vectors)
