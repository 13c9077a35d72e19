"""One packed matrix, for whoever multiplies rows with it: towers, and heads that pool.

Knows tensors and threads; knows no layer.
"""

from __future__ import annotations

import numpy as np
import torch

from tte_runtime.ops.rows.output import compiling
from tte_runtime.ops.rows.packing import is_bfloat16, pack_matrix, unpack_matrix, whole_panels
from tte_runtime.ops.rows.team import Team


class PanelMatrix:
    """A float32 matrix [O, I] in panels (see tiles.py); a `Matrix` of `ops/matrices.py`.

    Each row of a product has the bits that it would have alone.

    Args:
        weight: copied; in 16 bits where that loses nothing.
        team: who computes.
    """

    def __init__(self, weight: torch.Tensor, team: Team) -> None:
        from tte_runtime.ops.rows import compiled  # imports Numba, and compiles at its first call

        self._run, self._team = compiled.run_product, team
        self._shape = weight.shape[0], weight.shape[1]
        self._panels = pack_matrix(weight, exact=is_bfloat16(weight))
        with compiling("products"):
            self.times(torch.zeros(1, self._shape[1], dtype=torch.float32))

    @property
    def weight(self) -> torch.Tensor:
        """[O, I], a copy out of the panels."""
        return unpack_matrix(self._panels, *self._shape)

    def times(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x times the matrix, plus a bias [O]: [T, I] -> [T, O]."""
        return self._added(x, torch.zeros(1, dtype=torch.float32) if bias is None else bias)

    def times_plus(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """residual + x times the matrix: [T, I], [T, O] -> [T, O]."""
        return self._added(x, residual)

    def _added(self, x: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        (size, n), rows = self._shape, x.shape[0]
        out = torch.empty(rows, whole_panels(size), dtype=torch.float32)
        out[:, :size], out[:, size:] = first, 0
        sums, inputs = out.numpy(), x.contiguous().numpy()
        threads, block = self._team.plan(self._panels.size, rows)
        counters = np.zeros(3, np.int64)

        def part(me: int, team: int) -> None:
            self._run(sums, inputs, n, self._panels, counters, block, me, team)

        self._team.run(part, threads, counters, pieces=block > 0)
        return out[:, :size]
