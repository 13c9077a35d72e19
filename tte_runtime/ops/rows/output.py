"""Output embeddings for a step's states, with tensors around the compiled call. Knows tensors; knows no request."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from tte_runtime.ops.rows.packing import as_array, is_bfloat16, pack_codes
from tte_runtime.ops.rows.team import Team


class RowOutput:
    """Output embeddings [V, C] for the states of next tokens.

    Args:
        weight: shared, not copied, unless it can be kept in fewer bytes.
        team: who computes.
        weights: "w16", row after row, or "w8a8", codes in panels.
    """

    def __init__(self, weight: torch.Tensor, team: Team, weights: str = "w16") -> None:
        from tte_runtime.ops.rows import scoring

        self._score, self._likeliest = scoring.score_tokens, scoring.likeliest
        self._size = weight.shape[0]
        self.matrix = pack_codes(weight) if weights == "w8a8" else as_array(weight, exact=is_bfloat16(weight))
        self._team = team
        with compiling("scores of tokens"):
            one = torch.ones(1, weight.shape[1], dtype=torch.float32)
            self.likeliest(one, one[0], 1e-6)

    def scores(self, hidden: torch.Tensor, norm: torch.Tensor, eps: float) -> NDArray[np.float32]:
        """Of every token after the final norm: [S, C] -> float32 [S, V]."""
        states, weight = hidden.float().contiguous().numpy(), norm.float().contiguous().numpy()
        out = np.empty((len(states), self._size), np.float32)

        def part(me: int, size: int) -> None:
            self._score(states, weight, np.float32(eps), self.matrix, out, me, size)

        self._team.run(part, self._team.size_for(self.matrix.size, len(states)), np.zeros(1, np.int64), pieces=False)
        return out

    def likeliest(self, hidden: torch.Tensor, norm: torch.Tensor, eps: float) -> torch.Tensor:
        """The tokens of the highest scores, the lowest id of equal ones: [S, C] -> int64 [S]."""
        tokens = np.empty(len(hidden), np.int64)
        self._likeliest(self.scores(hidden, norm, eps), tokens)
        return torch.from_numpy(tokens)


@contextlib.contextmanager
def compiling(what: str) -> Iterator[None]:
    """Say on stderr when something took a compiler's time. Numba keeps its results on disk, so it does so once."""
    began = time.perf_counter()
    yield
    if (seconds := time.perf_counter() - began) > 1:
        print(f"{what}: compiled for this CPU in {seconds:.0f} s, kept for later starts", file=sys.stderr, flush=True)
