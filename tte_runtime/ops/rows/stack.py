"""The compiled calls with tensors around them: a decode step's layers, and the output embeddings.

Knows tensors, pages and layouts; knows no request.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from tte_runtime.config import PAGE_SIZE
from tte_runtime.ops.layout import StepLayout
from tte_runtime.ops.rows.packing import Layer, as_array, flatten, is_bfloat16
from tte_runtime.ops.rows.team import Team


class RowShape(Protocol):
    """What the layers of a decoder have in common; a decoder's spec has it."""

    @property
    def num_heads(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def norm_eps(self) -> float: ...


class RowStack:
    """All layers of a decoder over rows of one token; arithmetic is float32 whatever the pages hold.

    Args:
        layers: the weights, in order.
        shape: of all layers.
        inv_freq: float32 [D/2], radians a position. factor: scales cos and sin.
        team: who computes.
    """

    def __init__(
        self, layers: Sequence[Layer], shape: RowShape, inv_freq: torch.Tensor, factor: float, team: Team
    ) -> None:
        from tte_runtime.ops.rows import compiled  # imports Numba, and compiles at its first call

        self._run = compiled.run_layers
        self._packed = flatten(layers)
        self._sizes = (shape.num_heads, shape.intermediate_size, int(layers[0].q_norm is not None))
        self._eps, self._factor = np.float32(shape.norm_eps), np.float32(factor)
        self._inv_freq = inv_freq.numpy()
        self._depth = len(layers)
        dim = 2 * len(self._inv_freq)
        self._scratch = 2 * (shape.num_heads + shape.num_kv_heads) * dim + 3 * shape.intermediate_size
        self._team = team
        with compiling("decode steps"):
            self._compile(shape, layers[0].input_norm.dtype)

    def _compile(self, shape: RowShape, dtype: torch.dtype) -> None:
        """Go through no layer, so that no request waits for the compiler."""
        one = torch.ones(1, dtype=torch.int32)
        layout = StepLayout(True, one.long(), one[None], torch.tensor([0, 1], dtype=torch.int32), one, (1,), (1,))
        states = torch.zeros(1, shape.hidden_size, dtype=dtype)
        pages = states.new_zeros(1, 2, 2, shape.num_kv_heads, PAGE_SIZE, 2 * len(self._inv_freq))
        self.forward(states, one.long(), layout, pages, None, 0)

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights as they lie here."""
        return self._packed.matrices.nbytes + self._packed.vectors.nbytes

    def forward(
        self,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        layout: StepLayout,
        pages: torch.Tensor,
        taps: tuple[int, torch.Tensor] | None,
        depth: int | None,
    ) -> torch.Tensor:
        """Run the layers over the R rows of a decode step; keys, values and tapped states go to their slots.

        Args:
            hidden: [R, C]. positions: int64 [R]. pages: [L, 2, N, K, 16, D].
            taps: a layer, and [N * 16, C] where the states before it go.
            depth: run only so many layers.

        Returns:
            [R, C], before the final norm.
        """
        states = hidden.to(torch.float32, copy=True)
        tap_layer, tap_pages = taps if taps is not None else (-1, hidden[:0])
        arguments = (
            states.numpy(),
            positions.numpy(),
            self._inv_freq,
            self._factor,
            layout.slots.numpy(),
            layout.page_table.numpy(),
            layout.kv_lens.numpy(),
            _kept(pages),
            _kept(tap_pages),
            tap_layer,
            self._depth if depth is None else depth,
            self._packed.matrices,
            self._packed.vectors,
            self._sizes,
            self._eps,
            np.empty(len(hidden) * self._scratch, np.float32),
            np.zeros(1, np.int64),
        )
        self._team.run(lambda me, size: self._run(*arguments, me, size))
        return states.to(hidden.dtype)


class RowOutput:
    """Output embeddings [V, C] for the states of next tokens.

    Args:
        weight: shared, not copied, unless it can be kept in half its bytes.
        team: who computes.
    """

    def __init__(self, weight: torch.Tensor, team: Team) -> None:
        from tte_runtime.ops.rows import compiled

        self._score, self._likeliest = compiled.score_tokens, compiled.likeliest
        self._size = weight.shape[0]
        self._matrix = as_array(weight, exact=is_bfloat16(weight))
        self._team = team
        with compiling("scores of tokens"):
            self.likeliest(torch.zeros(1, weight.shape[1]), torch.ones(weight.shape[1]), 1e-6)

    def scores(self, hidden: torch.Tensor, norm: torch.Tensor, eps: float) -> NDArray[np.float32]:
        """Of every token after the final norm: [S, C] -> float32 [S, V]."""
        states, weight = hidden.float().numpy(), norm.float().numpy()
        out = np.empty((len(states), self._size), np.float32)

        def part(me: int, size: int) -> None:
            first, last = self._size * me // size, self._size * (me + 1) // size
            self._score(states, weight, np.float32(eps), self._matrix, out, first, last)

        self._team.run(part)
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


def _kept(pages: torch.Tensor) -> NDArray[Any]:
    """Pages as an array; bfloat16, which numpy lacks, as uint16."""
    return (pages.view(torch.uint16) if pages.dtype == torch.bfloat16 else pages).numpy()
