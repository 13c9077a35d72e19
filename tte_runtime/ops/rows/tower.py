"""A block of a vision tower as one call, with tensors around it. Knows tensors and weights; knows no family."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

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
        width, inner = block.second.weight.shape
        curve = CURVES[block.activation]
        self._sizes = (width, block.heads, inner, int(block.input_norm.bias is not None), int(curve is None))
        self._curve = np.array(curve or (0, 0), np.float32)
        self._eps = np.float32(block.eps)
        parts = [block.qkv, block.out, *_lines(block.first, 2 if curve is None else 1), block.second]
        exact = all(is_bfloat16(part.weight) for part in parts)
        self.matrices = np.concatenate([pack_matrix(part.weight, exact=exact) for part in parts])
        vectors = [block.input_norm.weight, _bias(block.input_norm), block.post_norm.weight, _bias(block.post_norm)]
        lines = [_bias(part, whole_panels(inner)) for part in parts[2:-1]]
        self.vectors = torch.cat([*vectors, _bias(block.qkv), _bias(block.out), *lines, _bias(block.second)]).numpy()

    def forward(self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
        """[N, C] -> [N, C].

        Args:
            hidden: float32. cos, sin: float32 [N, D], the angles of a head, equal in its halves.
            bounds: int [S + 1], where every picture's patches begin.
        """
        rows, width = hidden.shape
        half = width // self._sizes[1] // 2
        states = pad_rows(hidden)
        size, by_rows = self._team.plan(self.matrices.size, rows)
        arguments = (
            states.numpy(),
            np.ascontiguousarray(cos[:, :half].numpy()),
            np.ascontiguousarray(sin[:, :half].numpy()),
            bounds.numpy(),
            self.matrices,
            self.vectors,
            self._sizes,
            self._curve,
            self._eps,
            np.empty((rows, whole_panels(3 * width)), np.float32),
            np.empty((rows, width), np.float32),
            np.zeros(1, np.int64),
        )
        self._team.run(lambda me, team: self._run(*arguments, me, team), size if by_rows else 1)
        return states[:, :width]


def _bias(part: Affine, room: int | None = None) -> torch.Tensor:
    """Its bias, float32, zeros where there is none, and behind it up to `room`."""
    size = part.weight.shape[0]
    bias = torch.zeros(room or size)
    if part.bias is not None:
        bias[:size] = part.bias
    return bias


def _lines(part: Affine, number: int) -> list[Affine]:
    """A layer cut into `number` layers of like size."""
    biases = [None] * number if part.bias is None else part.bias.chunk(number)
    return [Affine(weight, bias) for weight, bias in zip(part.weight.chunk(number), biases, strict=True)]
