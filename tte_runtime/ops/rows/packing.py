"""How weights lie for rows of one token: one run of memory, in the order in which a step reads it.

Matrices whose every element is a bfloat16 number, as those of most checkpoints are, are kept in 16 bits and widened as
they are read: the same values in half the bytes. Knows weights; knows no op.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray


class Layer(Protocol):
    """A decoder layer: C model dim, F intermediate size, O = (H + 2K) * D. Matrices give their `weight`."""

    @property
    def input_norm(self) -> torch.Tensor: ...  # [C]
    @property
    def qkv(self) -> Any: ...  # [O, C]
    @property
    def qkv_bias(self) -> torch.Tensor | None: ...  # [O]
    @property
    def q_norm(self) -> torch.Tensor | None: ...  # [D]
    @property
    def k_norm(self) -> torch.Tensor | None: ...  # [D]
    @property
    def out(self) -> Any: ...  # [C, H * D]
    @property
    def post_norm(self) -> torch.Tensor: ...  # [C]
    @property
    def gate_up(self) -> Any: ...  # [2F, C]
    @property
    def down(self) -> Any: ...  # [C, F]


@dataclass(frozen=True)
class Packed:
    """The weights of some layers.

    Attributes:
        matrices: qkv, out, gate_up and down of every layer, row after row: float32, or uint16 for bfloat16.
        vectors: float32: input norm, bias (zeros where there is none), norms of q and k where there are any, and post
            norm of every layer.
    """

    matrices: NDArray[Any]
    vectors: NDArray[np.float32]


def flatten(layers: Sequence[Layer]) -> Packed:
    """All layers, in order, as a step reads them."""
    matrices = [[one.weight for one in (w.qkv, w.out, w.gate_up, w.down)] for w in layers]
    exact = all(is_bfloat16(matrix) for layer in matrices for matrix in layer)
    dtype = np.uint16 if exact else np.float32
    flat = np.empty(sum(matrix.numel() for layer in matrices for matrix in layer), dtype)
    start = 0
    for layer in matrices:
        for matrix in layer:
            flat[start : start + matrix.numel()] = as_array(matrix, exact=exact)
            start += matrix.numel()
    vectors = [part.float().numpy() for w in layers for part in _vectors(w)]
    return Packed(flat, np.concatenate(vectors))


def is_bfloat16(matrix: torch.Tensor) -> bool:
    """Every element is a bfloat16 number."""
    return matrix.dtype == torch.bfloat16 or torch.equal(matrix.bfloat16().to(matrix.dtype), matrix)


def as_array(matrix: torch.Tensor, *, exact: bool) -> NDArray[Any]:
    """The elements one after another: bfloat16 as uint16 where that is `exact`, else float32, uncopied if it can be."""
    flat = matrix.detach().flatten()
    return flat.bfloat16().view(torch.uint16).numpy() if exact else flat.float().numpy()


def _vectors(w: Layer) -> list[torch.Tensor]:
    bias = w.qkv_bias if w.qkv_bias is not None else torch.zeros(w.qkv.weight.shape[0])
    norms = [norm for norm in (w.q_norm, w.k_norm) if norm is not None]
    return [w.input_norm, bias, *norms, w.post_norm]
