"""A step's layers, and walks of several steps, with tensors around the compiled calls.

Knows tensors, pages and layouts; knows no request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from tte_runtime.config import PAGE_SIZE
from tte_runtime.ops.layout import StepLayout
from tte_runtime.ops.rows.output import RowOutput, compiling
from tte_runtime.ops.rows.packing import Layer, pack_layers, pad_rows, whole_panels
from tte_runtime.ops.rows.team import Team

A_WALK = 12e6  # weights that one thread reads and multiplies in about a millisecond, see team.py
_NO_PLANES, _NO_ENDS = np.empty((0, 0, 0), np.float32), np.empty(0, np.int64)


@dataclass(frozen=True)
class Words:
    """Tokens of a walk: float32 embeddings [V, C] and final norm [C], and int64 [n], which end it."""

    embed: torch.Tensor
    norm: torch.Tensor
    stops: NDArray[np.int64]


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


class RowRotation(Protocol):
    """How heads are turned; a decoder's rotary tables have it."""

    @property
    def inv_freq(self) -> torch.Tensor: ...  # float32 [D/2], radians a position
    @property
    def axis(self) -> torch.Tensor: ...  # int64 [D/2], which of three positions turns which pair
    @property
    def factor(self) -> float: ...  # scales cos and sin


class RowStack:
    """All layers of a decoder over the rows of a step; arithmetic is float32 whatever the pages hold.

    Args:
        layers: the weights, in order.
        shape: of all layers.
        rotation: what turns heads.
        team: who computes.
        prompts: whether it takes prompts too, or rows of one token only.
        weights: how the matrices are kept: "w16", as they are, or "w8a8".
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        shape: RowShape,
        rotation: RowRotation,
        team: Team,
        *,
        prompts: bool,
        weights: str = "w16",
    ) -> None:
        from tte_runtime.ops.rows import compiled  # imports Numba, and compiles at its first call

        self.prompts = prompts
        self._run = compiled.run_layers
        self._packed = pack_layers(layers, weights)
        self._sizes = (shape.hidden_size, shape.num_heads, shape.intermediate_size, int(layers[0].q_norm is not None))
        self._eps, self._factor = np.float32(shape.norm_eps), np.float32(rotation.factor)
        self._axes, self._inv_freq = rotation.axis.numpy(), rotation.inv_freq.numpy()
        self._depth = len(layers)
        dim = 2 * len(self._inv_freq)
        self._kept = whole_panels((shape.num_heads + 2 * shape.num_kv_heads) * dim) + dim
        self._between = shape.num_heads * dim + 3 * whole_panels(shape.intermediate_size)
        self._team = team
        with compiling("steps"):
            self._compile(shape, layers[0].input_norm.dtype)

    def _compile(self, shape: RowShape, dtype: torch.dtype) -> None:
        """Feed one token, so that no request waits for the compiler."""
        states = torch.zeros(1, shape.hidden_size, dtype=dtype)
        pages = states.new_zeros(self._depth, 2, 2, shape.num_kv_heads, PAGE_SIZE, 2 * len(self._inv_freq))
        self.forward(states, torch.ones(3, 1, dtype=torch.int64), StepLayout.one_token(), pages)

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
        taps: tuple[int, torch.Tensor] | None = None,
        deepstack: torch.Tensor | None = None,
        ends: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run the layers over the R rows of a step; keys, values and tapped states go to their slots.

        Args:
            hidden: [R, C]. positions: int64 [3, R]. pages: [L, 2, N, K, 16, D].
            taps: a layer, and [N * 16, C] where the states before it go.
            deepstack: [n, R, C], added behind each of the first n layers.
            ends: int64 [S], ascending: the only rows that are wanted.

        Returns:
            [R, C], or [S, C] of `ends`, before the final norm.
        """
        assert layout.decode or self.prompts, "prompts take the path of plain torch"
        rows, width = hidden.shape
        size, block = self._team.plan(self._packed.matrices.size, rows)
        states = pad_rows(hidden)
        first, last = self._arguments(states, positions, layout, pages, taps, deepstack, ends, size, block)

        def part(me: int, team: int) -> None:
            self._run(*first, layout.decode, *last, block, me, team)

        self._team.run(part, size, last[-1], pieces=block > 0)
        return (states if ends is None else states[ends])[:, :width].to(hidden.dtype)

    def longest_walk(self, rows: int) -> int:
        """Decode steps that one call may make: what one thread does in about a millisecond."""
        if not self.prompts or self._team.size_for(self._packed.matrices.size, rows) > 1:
            return 1
        return max(1, int(A_WALK / (self._packed.matrices.size * (1 + rows / 11))))

    def walk(
        self,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        layout: StepLayout,
        pages: torch.Tensor,
        taps: tuple[int, torch.Tensor] | None,
        output: RowOutput,
        words: Words,
        steps: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Up to `steps` decode steps, each drawing the likeliest tokens; it ends early behind one of `words.stops`.

        Args:
            hidden, positions, layout: of the first step; the rows' pages have room for `steps` tokens. Others as for
                `forward`.
            output: scores tokens.
            words: how tokens are read and where they end.

        Returns:
            states [R, C] of the last step, and the tokens drawn, int64 [steps made, R].
        """
        from tte_runtime.ops.rows import walking  # its compiling waits for the first model that is small enough

        rows, width = hidden.shape
        states, tokens = pad_rows(hidden), np.empty((steps, rows), np.int64)
        first, last = self._arguments(states, positions, layout, pages, taps, None, None, 1, 0)
        hidden_in, positions_in, axes, inv_freq, factor, slots, starts, table, lengths = first
        made = walking.run_steps(
            hidden_in, positions_in.copy(), axes, inv_freq, factor, slots.copy(), starts, table, lengths.copy(), *last,
            words.embed.numpy(), words.norm.numpy(), output.matrix, words.stops, tokens,
        )  # fmt: skip
        return states[:, :width], torch.from_numpy(tokens[:made])

    def _arguments(
        self,
        states: torch.Tensor,
        positions: torch.Tensor,
        layout: StepLayout,
        pages: torch.Tensor,
        taps: tuple[int, torch.Tensor] | None,
        deepstack: torch.Tensor | None,
        ends: torch.Tensor | None,
        size: int,
        block: int,
    ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """What `run_layers` takes before and behind `decode`, for `size` threads and pieces of `block` rows."""
        # Without taps their type is still that of those with: the call is compiled once, when a model is loaded.
        tap_layer, tap_pages = taps if taps is not None else (-1, pages.new_empty(0, states.shape[1]))
        planes = _NO_PLANES if deepstack is None else deepstack.float().contiguous().numpy()
        rows = len(states)
        between = size * block or rows
        first = (
            states.numpy(),
            np.ascontiguousarray(positions.numpy()),
            self._axes,
            self._inv_freq,
            self._factor,
            layout.slots.numpy(),
            layout.cu_seqlens.numpy(),
            layout.page_table.numpy(),
            layout.kv_lens.numpy(),
        )
        last = (
            _kept(pages),
            _kept(tap_pages),
            tap_layer,
            self._depth,
            _NO_ENDS if ends is None else ends.numpy(),
            planes,
            self._packed.matrices,
            self._packed.vectors,
            self._sizes,
            self._eps,
            np.empty(rows * self._kept + between * self._between, np.float32),
            np.zeros(1 + 4 * self._depth, np.int64),
        )
        return first, last


def _kept(pages: torch.Tensor) -> NDArray[Any]:
    """Pages as an array; bfloat16, which numpy lacks, as uint16."""
    return (pages.view(torch.uint16) if pages.dtype == torch.bfloat16 else pages).numpy()
