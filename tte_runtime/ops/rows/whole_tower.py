"""A whole vision tower as one compiled call: patches, blocks, merger.

Of towers whose blocks all see whole pictures, as Qwen2-VL's do. Threads divide the rows by merged ones, so that each
merges what it made itself. Knows arrays; knows no tensor and no family.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tte_runtime.ops.rows.barrier import share
from tte_runtime.ops.rows.blocks import norm_some, pass_block
from tte_runtime.ops.rows.compiled import BLOCK
from tte_runtime.ops.rows.numbers import STRICT
from tte_runtime.ops.rows.sources import SOURCES
from tte_runtime.ops.rows.tiles import PANEL, multiply, padded
from tte_runtime.ops.rows.values import whole_gelu


@njit(**STRICT)
def _merge(hidden, begin, end, merged, matrices, vectors, width, eps, out):
    """Rows `begin` to `end` of hidden [N, padded C], `merged` of them to a row, into their rows of out [N/m, padded O].

    Args:
        matrices: [m*C, m*C] and [O, m*C]. vectors: weight and bias of the norm, bias of either, on to whole panels.
    """
    wide = merged * width
    room, size = padded(wide), out.shape[1]
    weight, bias = vectors[:width], vectors[width : 2 * width]
    first_bias, second_bias = vectors[2 * width : 2 * width + room], vectors[2 * width + room : 2 * width + room + size]
    block = min(BLOCK, max(end - begin, 1))
    normed, inner = np.empty((block * merged, width), np.float32), np.empty((block, room), np.float32)
    for first in range(begin, end, block):
        count = min(block, end - first)
        norm_some(hidden, first * merged, count * merged, weight, bias, 1, eps, normed)
        for row in range(count):
            inner[row], out[first + row] = first_bias, second_bias
        multiply(inner, 0, normed.reshape(block, wide), count, wide, matrices, 0, 0, room // PANEL)
        whole_gelu(inner, count, room)
        multiply(out, first, inner, count, wide, matrices, room * wide, 0, size // PANEL)


def _entry(made_of):
    @njit(cache=True, **STRICT)
    def run_tower(
        pixels, hidden, cos, sin, bounds, matrices, vectors, sizes, shape, curve, epsilons, qkv, mixed, counter, out,
        me, team,
    ):  # fmt: skip
        """Patches [N, I] to features, out [N/m, padded O].

        Args:
            hidden: room, [N, padded C]. epsilons: of the blocks' norms, and of the merger's.
            matrices, vectors: of the patches (no bias), of the blocks one after another, of the merger, as `tower` lays
                them. sizes, curve, cos, sin, bounds, qkv, mixed, counter: as for `run_block`.
            shape: (how many blocks, elements of matrices and of vectors of each, m).
        """
        made_of  # noqa: B018
        blocks, matrices_each, vectors_each, merged = shape
        width, inputs, stride = sizes[0], pixels.shape[1], hidden.shape[1]
        begin, end = share(hidden.shape[0] // merged, me, team)
        first, last = begin * merged, end * merged
        hidden[first:last] = np.float32(0)
        multiply(hidden, first, pixels[first:last], last - first, inputs, matrices, 0, 0, stride // PANEL)
        m, v, met = stride * inputs, 0, 0
        for _ in range(blocks):
            met = pass_block(
                hidden, first, last, cos, sin, bounds, matrices[m:], vectors[v:], sizes, curve, epsilons[0], qkv, mixed,
                counter, met, me, team,
            )  # fmt: skip
            m, v = m + matrices_each, v + vectors_each
        _merge(hidden, begin, end, merged, matrices[m:], vectors[v:], width, epsilons[1], out)

    return run_tower


run_tower = _entry(SOURCES)
