"""A whole vision tower as one compiled call: patches, blocks, merger.

Of towers whose blocks all see whole pictures, as Qwen2-VL's do. Threads take pieces of the rows, turn by turn. Knows
arrays; knows no tensor and no family.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tte_runtime.ops.rows.barrier import finish, settle, take
from tte_runtime.ops.rows.blocks import norm_some, pass_block
from tte_runtime.ops.rows.numbers import STRICT, entry_point
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
    count = end - begin
    normed, inner = np.empty((count * merged, width), np.float32), np.empty((count, room), np.float32)
    norm_some(hidden, begin * merged, count * merged, weight, bias, 1, eps, normed)
    for row in range(count):
        inner[row], out[begin + row] = first_bias, second_bias
    multiply(inner, 0, normed.reshape(count, wide), count, wide, matrices, 0, 0, room // PANEL)
    whole_gelu(inner, count, room)
    multiply(out, begin, inner, count, wide, matrices, room * wide, 0, size // PANEL)


def _entry(made_of):
    @entry_point
    def run_tower(
        pixels, hidden, cos, sin, bounds, matrices, vectors, sizes, shape, curve, epsilons, qkv, mixed, counters, out,
        block, me, team,
    ):  # fmt: skip
        """Patches [N, I] to features, out [N/m, padded O].

        Args:
            hidden: room, [N, padded C]. epsilons: of the blocks' norms, and of the merger's.
            matrices, vectors: of the patches (no bias), of the blocks one after another, of the merger, as `tower` lays
                them. sizes, curve, cos, sin, bounds, qkv, mixed, counters, block: as for `pass_block`.
            shape: (how many blocks, elements of matrices and of vectors of each, m).
        """
        made_of  # noqa: B018
        depth, matrices_each, vectors_each, merged = shape
        (rows, inputs), stride, together = pixels.shape, hidden.shape[1], team > 1
        taken = take(counters, 0, together, -1)
        while taken * block < rows:
            first, last = taken * block, min(rows, taken * block + block)
            hidden[first:last] = np.float32(0)
            multiply(hidden, first, pixels[first:last], last - first, inputs, matrices, 0, 0, stride // PANEL)
            finish(counters, 0, together)
            taken = take(counters, 0, together, taken)
        settle(counters, 0, together, (rows + block - 1) // block)
        m, v = stride * inputs, 0
        for layer in range(depth):
            pass_block(
                hidden, cos, sin, bounds, matrices[m:], vectors[v:], sizes, curve, epsilons[0], qkv, mixed, counters,
                1 + 3 * layer, together, block,
            )  # fmt: skip
            m, v = m + matrices_each, v + vectors_each
        turn, features = 1 + 3 * depth, rows // merged
        part = min(block, (features + team - 1) // team)  # so that nobody reads the merger's weights twice
        taken = take(counters, turn, together, -1)
        while taken * part < features:
            first, last = taken * part, min(features, taken * part + part)
            _merge(hidden, first, last, merged, matrices[m:], vectors[v:], sizes[0], epsilons[1], out)
            finish(counters, turn, together)
            taken = take(counters, turn, together, taken)
        settle(counters, turn, together, (features + part - 1) // part)

    return run_tower


run_tower = _entry(SOURCES)
