"""The backend of a CPU: prompts in plain torch, rows of one token in compiled calls. Knows no Numba until it packs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tte_kernels.sample.reference import sample_logits
from tte_runtime.ops.layout import Draw
from tte_runtime.ops.prefill import Prefill
from tte_runtime.ops.rows.packing import Layer
from tte_runtime.ops.rows.stack import RowOutput, RowShape, RowStack
from tte_runtime.ops.rows.team import Team
from tte_runtime.ops.torch_ops import TorchOps


class NumbaOps(TorchOps):
    """`TorchOps` whose decode steps are compiled: all layers in one call, and the output embeddings in another.

    Args:
        threads: as many as a decode step may use.
        prefill: as for `TorchOps`.
    """

    name = "numba"

    def __init__(self, threads: int, prefill: Prefill | None = None) -> None:
        super().__init__("w16", prefill)
        self._team = Team(threads)

    def pack_output(self, weight: torch.Tensor) -> Any:
        """The output embeddings [V, C] in the form that `next_tokens` takes."""
        return RowOutput(weight, self._team)

    def fuse(self, layers: Sequence[Layer], shape: RowShape, inv_freq: torch.Tensor, factor: float) -> RowStack:
        """All layers of a decode step as one call."""
        return RowStack(layers, shape, inv_freq, factor, self._team)

    def next_tokens(
        self, hidden: torch.Tensor, norm: torch.Tensor, eps: float, weight: Any, draw: Draw
    ) -> torch.Tensor:
        """As `TorchOps.next_tokens`."""
        if draw.greedy:
            return weight.likeliest(hidden, norm, eps)
        logits = torch.from_numpy(weight.scores(hidden, norm, eps))
        return sample_logits(
            logits, draw.temperature, draw.seed, draw.position, draw.trace_index, draw.top_k, draw.top_p
        )
