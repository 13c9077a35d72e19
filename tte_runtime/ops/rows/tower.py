"""A vision tower, or a block of one, as one call, with tensors around it. Knows tensors; knows no family."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tte_runtime.ops.rows.output import compiling
from tte_runtime.ops.rows.packing import is_bfloat16, pack_matrix, pad_rows, whole_panels
from tte_runtime.ops.rows.team import Team

# By name in a config, the two numbers of `gelu` in values.py; a gated MLP takes none.
CURVES = {"quick_gelu": (1.702, 0.0), "gelu_pytorch_tanh": (1.5957691, 0.07135482), "silu": None}


@dataclass(frozen=True)
class Affine:
    """A linear layer, or a norm of C elements: `weight` [O, I] or [C], `bias` [O] or [C], or `None`."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None


@dataclass(frozen=True)
class Block:
    """Weights of a block: C model dim, H heads, F inner size.

    Attributes:
        input_norm, post_norm: with a bias they are LayerNorm, else RMSNorm.
        qkv: [3C, C]. out: [C, C]. first: [F, C], or [2F, C], gates and then ups. second: [C, F].
        activation: of the MLP, a name of `CURVES`; "silu" is gated, the others are not.
    """

    heads: int
    eps: float
    input_norm: Affine
    qkv: Affine
    out: Affine
    post_norm: Affine
    first: Affine
    second: Affine
    activation: str


@dataclass(frozen=True)
class Tower:
    """Weights of a tower whose blocks all see whole pictures: I values of a patch, m patches to a feature of O.

    Attributes:
        patches: [C, I]. blocks: alike in all but their weights, in order.
        norm: [C], with a bias. first: [m*C, m*C], GELU by the error function behind it. second: [O, m*C].
    """

    patches: torch.Tensor
    blocks: tuple[Block, ...]
    norm: Affine
    eps: float
    first: Affine
    second: Affine


class RowBlock:
    """A float32 block over the patches of pictures, none of which sees another's.

    Each row has the bits that its picture alone would give it.

    Args:
        block: its weights, copied; matrices in 16 bits where that loses nothing.
        team: who computes.
    """

    def __init__(self, block: Block, team: Team) -> None:
        from tte_runtime.ops.rows import blocks  # imports Numba, and compiles at its first call

        self._run, self._team = blocks.run_block, team
        self._sizes, self._curve, self._eps = _sizes(block), _curve(block), np.float32(block.eps)
        self.matrices = _packed(_matrices(block))
        self.vectors = torch.cat(_vectors(block)).numpy()
        with compiling("a tower's blocks"):
            angles = torch.zeros(1, self._sizes[0] // self._sizes[1], dtype=torch.float32)
            self.forward(torch.zeros(1, self._sizes[0], dtype=torch.float32), angles, angles, torch.tensor([0, 1]))

    def forward(self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
        """[N, C] -> [N, C].

        Args:
            hidden: float32. cos, sin: float32 [N, D], the angles of a head, equal in its halves.
            bounds: int [S + 1], where every picture's patches begin.
        """
        rows, width = hidden.shape
        half = width // self._sizes[1] // 2
        states, room = pad_rows(hidden), _room(rows, width, turns=3)
        arguments = (
            states.numpy(),
            np.ascontiguousarray(cos[:, :half].numpy()),
            np.ascontiguousarray(sin[:, :half].numpy()),
            bounds.numpy().astype(np.int64),
            self.matrices,
            self.vectors,
            self._sizes,
            self._curve,
            self._eps,
            *room,
        )
        _run_in_pieces(self._team, self._run, arguments, room[-1], self.matrices.size, rows)
        return states[:, :width]


class RowTower:
    """A float32 tower over the patches of pictures, none of which sees another's.

    Each feature has the bits that its picture alone would give it.

    Args:
        tower: its weights, copied; matrices in 16 bits where that loses nothing.
        team: who computes.
    """

    def __init__(self, tower: Tower, team: Team) -> None:
        from tte_runtime.ops.rows import whole_tower  # imports Numba, and compiles at its first call

        self._run, self._team = whole_tower.run_tower, team
        block = tower.blocks[0]
        self._sizes, self._curve = _sizes(block), _curve(block)
        self._epsilons = np.array([block.eps, tower.eps], np.float32)
        self._features = tower.second.weight.shape[0]
        wide = tower.first.weight.shape[0]
        self._merged = wide // self._sizes[0]
        matrices = [_matrices(block) for block in tower.blocks]
        merging = tower.first.weight, tower.second.weight
        self.matrices = _packed([tower.patches, *chain.from_iterable(matrices), *merging])
        vectors = [torch.cat(_vectors(block)) for block in tower.blocks]
        merger = [_bias(tower.first, whole_panels(wide)), _bias(tower.second, whole_panels(self._features))]
        self.vectors = torch.cat([*vectors, tower.norm.weight, _bias(tower.norm), *merger]).numpy()
        each = sum(whole_panels(part.shape[0]) * part.shape[1] for part in matrices[0])
        self._shape = (len(vectors), each, len(vectors[0]), self._merged)
        with compiling("a tower"):  # by one feature's patches
            angles = np.zeros((self._merged, self._sizes[0] // self._sizes[1] // 2), np.float32)
            patches = torch.zeros(self._merged, tower.patches.shape[1], dtype=torch.float32)
            self.forward(patches, angles, angles, np.array([0, self._merged]))

    def forward(
        self, patches: torch.Tensor, cos: NDArray[np.float32], sin: NDArray[np.float32], bounds: NDArray[np.int64]
    ) -> torch.Tensor:
        """[N, I] -> [N / m, O].

        Args:
            patches: float32. cos, sin: [N, D / 2], the angles of either half of a head.
            bounds: [S + 1], where every picture's patches begin.
        """
        rows, width = patches.shape[0], self._sizes[0]
        room = _room(rows, width, turns=2 + 3 * self._shape[0])
        features = torch.empty(rows // self._merged, whole_panels(self._features), dtype=torch.float32)
        arguments = (
            patches.contiguous().numpy(),
            np.empty((rows, whole_panels(width)), np.float32),
            cos,
            sin,
            bounds,
            self.matrices,
            self.vectors,
            self._sizes,
            self._shape,
            self._curve,
            self._epsilons,
            *room,
            features.numpy(),
        )
        _run_in_pieces(self._team, self._run, arguments, room[-1], self.matrices.size, rows)
        return features[:, : self._features]


def _sizes(block: Block) -> tuple[int, int, int, int, int]:
    """(C, H, F, 1 where norms take the mean away, 1 where the MLP is gated)."""
    width, inner = block.second.weight.shape
    return width, block.heads, inner, int(block.input_norm.bias is not None), int(CURVES[block.activation] is None)


def _curve(block: Block) -> NDArray[np.float32]:
    return np.array(CURVES[block.activation] or (0, 0), np.float32)


def _run_in_pieces(
    team: Team, run: Any, arguments: tuple[Any, ...], counters: NDArray[np.int64], weights: int, rows: int
) -> None:
    """A compiled call that takes the rows of a piece, which thread it is and of how many, behind `arguments`.

    Few rows are one piece of one thread: such a call does not divide columns.
    """
    size, block = team.plan(weights, rows)
    team.run(lambda me, of: run(*arguments, block or rows, me, of), size if block else 1, counters, pieces=True)


def _packed(parts: list[torch.Tensor]) -> NDArray[Any]:
    """Matrices one behind another, all in 16 bits where that loses nothing of any."""
    exact = all(map(is_bfloat16, parts))
    return np.concatenate([pack_matrix(part, exact=exact) for part in parts])


def _room(rows: int, width: int, turns: int) -> tuple[NDArray[Any], ...]:
    """What a call writes into on its way: queries, keys and values; mixed values; the counters of its turns."""
    wide = np.empty((rows, whole_panels(3 * width)), np.float32)
    return wide, np.empty((rows, width), np.float32), np.zeros(1 + 2 * turns, np.int64)


def _matrices(block: Block) -> list[torch.Tensor]:
    return [block.qkv.weight, block.out.weight, *(part.weight for part in _lines(block)), block.second.weight]


def _vectors(block: Block) -> list[torch.Tensor]:
    norms = [block.input_norm.weight, _bias(block.input_norm), block.post_norm.weight, _bias(block.post_norm)]
    room = whole_panels(block.second.weight.shape[1])
    lines = [_bias(part, room) for part in _lines(block)]
    return [*norms, _bias(block.qkv), _bias(block.out), *lines, _bias(block.second)]


def _bias(part: Affine, room: int | None = None) -> torch.Tensor:
    """Its bias, float32, zeros where there is none, and behind it up to `room`."""
    size = part.weight.shape[0]
    bias = torch.zeros(room or size, dtype=torch.float32)
    if part.bias is not None:
        bias[:size] = part.bias
    return bias


def _lines(block: Block) -> list[Affine]:
    """The first layer of its MLP; where that is gated, gates and ups apart."""
    part, number = block.first, 2 if CURVES[block.activation] is None else 1
    biases = [None] * number if part.bias is None else part.bias.chunk(number)
    return [Affine(weight, bias) for weight, bias in zip(part.weight.chunk(number), biases, strict=True)]
