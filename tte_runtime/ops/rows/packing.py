"""How weights lie for compiled steps: one run of memory, in the order in which a step reads it.

Matrices whose every element is a bfloat16 number, as those of most checkpoints are, are kept in 16 bits and widened as
they are read: the same values in half the bytes. With `w8a8` they become codes of 8 bits with a scale an output. Knows
weights; knows no op.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from tte_runtime.ops.matrices import UINT8_ZERO, to_codes

PANEL = 32  # outputs of a matrix that lie side by side, see tiles.py
WORD = 4  # codes of an output that lie side by side, see codes.py
CODE_HEAD = 8 * PANEL  # bytes before a panel of codes: float32 scales, int32 of what is to be taken off


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
        matrices: qkv, out, gates, ups and down of every layer, each in panels [ceil(O / 32), I, 32], where a panel goes
            on behind the last output, zeros: float32, uint16 for bfloat16, or int8, see `pack_codes`.
        vectors: float32: input norm, bias (zeros where there is none), norms of q and k where there are any, and post
            norm of every layer.
    """

    matrices: NDArray[Any]
    vectors: NDArray[np.float32]


def pack_layers(layers: Sequence[Layer], weights: str) -> Packed:
    """All layers, in order, as a step reads them; `weights` is their format, "w16" or "w8a8"."""
    if weights == "w8a8":
        flat = np.concatenate([pack_codes(matrix) for layer in layers for matrix in _matrices(layer)])
    else:
        flat = _pack_exactly(layers)
    vectors = [part.float().numpy() for w in layers for part in _vectors(w)]
    return Packed(flat, np.concatenate(vectors))


def _pack_exactly(layers: Sequence[Layer]) -> NDArray[Any]:
    exact, size, start = True, 0, 0
    for layer in layers:
        for matrix in _matrices(layer):  # unpacked one layer at a time
            exact, size = exact and is_bfloat16(matrix), size + _room(matrix)
    flat = np.empty(size, _kind(exact))
    for layer in layers:
        for matrix in _matrices(layer):
            stop = start + _room(matrix)
            flat[start:stop] = pack_matrix(matrix, exact=exact)
            start = stop
    return flat


def whole_panels(size: int) -> int:
    """`size` outputs rounded up to whole panels."""
    return -(-size // PANEL) * PANEL


def pad_rows(rows: torch.Tensor) -> torch.Tensor:
    """A float32 copy of [R, C], whole panels wide, zeros behind."""
    width = rows.shape[1]
    wide = torch.empty(rows.shape[0], whole_panels(width), dtype=torch.float32)
    wide[:, :width], wide[:, width:] = rows, 0
    return wide


def pack_matrix(matrix: torch.Tensor, *, exact: bool) -> NDArray[Any]:
    """A matrix [O, I] in panels, flat."""
    size, n = matrix.shape
    whole = np.zeros((whole_panels(size), n), _kind(exact))
    whole[:size] = as_array(matrix, exact=exact).reshape(size, n)
    return np.ascontiguousarray(whole.reshape(-1, PANEL, n).transpose(0, 2, 1)).reshape(-1)


def pack_codes(matrix: torch.Tensor) -> NDArray[np.int8]:
    """A matrix [O, I] as codes of -127 to 127, flat: of each panel 32 float32 scales, 32 int32 (what a row of inputs
    that are all zero, code 128, would add to each output), and [ceil(I / 4), 32, 4] codes, zeros behind the last input.
    """
    size, n = matrix.shape
    panels, words = whole_panels(size) // PANEL, -(-n // WORD)
    whole, scale = to_codes(matrix)
    codes = np.zeros((panels * PANEL, words * WORD), np.int8)
    codes[:size, :n] = whole.numpy()
    scales, zeros = np.zeros(panels * PANEL, np.float32), codes.sum(1, dtype=np.int32) * UINT8_ZERO
    scales[:size] = scale.numpy()
    parts = [part.reshape(panels, PANEL).view(np.int8) for part in (scales, zeros)]
    parts.append(codes.reshape(panels, PANEL, words, WORD).transpose(0, 2, 1, 3).reshape(panels, -1))
    return np.concatenate(parts, axis=1).reshape(-1)


def unpack_matrix(panels: NDArray[Any], size: int, n: int) -> torch.Tensor:
    """float32 [size, n], a copy out of its panels."""
    whole = torch.from_numpy(panels.reshape(-1, n, PANEL).transpose(0, 2, 1).reshape(-1, n)[:size])
    return (whole.view(torch.bfloat16) if whole.dtype == torch.uint16 else whole).float().clone()


def is_bfloat16(matrix: torch.Tensor) -> bool:
    """Every element is a bfloat16 number."""
    return matrix.dtype == torch.bfloat16 or torch.equal(matrix.bfloat16().to(matrix.dtype), matrix)


def as_array(matrix: torch.Tensor, *, exact: bool) -> NDArray[Any]:
    """The elements one after another: bfloat16 as uint16 where that is `exact`, else float32, uncopied if it can be."""
    flat = matrix.detach().flatten()
    return flat.bfloat16().view(torch.uint16).numpy() if exact else flat.float().numpy()


def _kind(exact: bool) -> type[np.generic]:
    return np.uint16 if exact else np.float32


def _room(matrix: torch.Tensor) -> int:
    return whole_panels(matrix.shape[0]) * matrix.shape[1]


def _matrices(w: Layer) -> list[torch.Tensor]:
    gates, ups = w.gate_up.weight.chunk(2)
    return [w.qkv.weight, w.out.weight, gates, ups, w.down.weight]


def _vectors(w: Layer) -> list[torch.Tensor]:
    bias = w.qkv_bias if w.qkv_bias is not None else torch.zeros(w.qkv.weight.shape[0], dtype=torch.float32)
    norms = [norm for norm in (w.q_norm, w.k_norm) if norm is not None]
    return [w.input_norm, bias, *norms, w.post_norm]
