"""A block of a vision tower as one compiled call: norm, attention over whole pictures, norm, MLP.

The tiles, norms and attention are those of a decoder's steps; nothing is causal, and nothing is kept. Threads take
pieces of the rows, and for attention the heads of pictures. Knows arrays; knows no tensor and no family.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tte_runtime.ops.rows.attention import TILE, attend_tile
from tte_runtime.ops.rows.barrier import finish, settle, take
from tte_runtime.ops.rows.numbers import STRICT, entry_point
from tte_runtime.ops.rows.sources import SOURCES
from tte_runtime.ops.rows.tiles import PANEL, multiply, padded
from tte_runtime.ops.rows.values import centred_norm, gate, gelu, norm, rotate


@njit(**STRICT)
def norm_some(hidden, first, count, weight, bias, centred, eps, out):
    for row in range(count):
        if centred:
            centred_norm(hidden[first + row], weight, bias, eps, out[row])
        else:
            norm(hidden[first + row], weight, eps, out[row])


@njit(**STRICT)
def _attend(qkv, bounds, heads, dim, counters, turn, together, mixed):
    """Every (picture, head) is a piece: qkv [N, 3 * H * D], queries scaled, into mixed [N, H * D]."""
    longest = 0
    for picture in range(bounds.shape[0] - 1):
        longest = max(longest, bounds[picture + 1] - bounds[picture])
    key_panels = np.empty(padded(longest) * dim, np.float32)
    value_panels = np.empty(padded(longest) * padded(dim), np.float32)
    scores, out = np.empty(TILE * padded(longest), np.float32), np.empty(TILE * padded(dim), np.float32)
    flat, step = qkv.reshape(-1), qkv.shape[1]
    pieces = (bounds.shape[0] - 1) * heads
    taken = take(counters, turn, together, -1)
    while taken < pieces:
        picture, head = taken // heads, taken % heads
        begin, end = bounds[picture], bounds[picture + 1]
        _lay_out(qkv, begin, end, head, heads, dim, key_panels, value_panels)
        for row in range(begin, end, TILE):
            attend_tile(
                flat, row * step + head * dim, step, min(TILE, end - row), end - begin, 0, dim, key_panels,
                value_panels, padded(end - begin), scores, out, mixed, row, head * dim,
            )  # fmt: skip
        finish(counters, turn, together)
        taken = take(counters, turn, together, taken)
    settle(counters, turn, together, pieces)


@njit(**STRICT)
def _lay_out(qkv, begin, end, head, heads, dim, key_panels, value_panels):
    """One head's keys as a matrix of `end` - `begin` outputs, its values as one of D; zeros where a panel goes on."""
    room, wide = padded(end - begin), padded(dim)
    k, v = (heads + head) * dim, (2 * heads + head) * dim
    for t in range(room):
        at = t // PANEL * dim * PANEL + t % PANEL
        known = begin + t < end
        for d in range(dim):
            key_panels[at + d * PANEL] = qkv[begin + t, k + d] if known else np.float32(0)
        for d in range(wide):
            value = qkv[begin + t, v + d] if known and d < dim else np.float32(0)
            value_panels[(d // PANEL * room + t) * PANEL + d % PANEL] = value


@njit(**STRICT)
def pass_block(
    hidden, cos, sin, bounds, matrices, vectors, sizes, curve, eps, qkv, mixed, counters, turn, together, block
):  # fmt: skip
    """hidden [N, padded C] becomes the states behind the block; three turns of pieces, from `turn` on.

    Args:
        cos, sin: [N, D/2], of both halves of a head. bounds: [S + 1], where every picture's rows begin.
        matrices, vectors: as `tower` lays them. sizes: (C, H, F, 1 where norms take the mean away, 1 where the MLP
            is gated). curve: two numbers of `gelu`, where it is not.
        qkv: room, [N, padded 3C]. mixed: room, [N, C]. counters: int64, 0, see `barrier`.
        together: whether other threads take pieces, too. block: rows of a piece.
    """
    rows, stride = hidden.shape
    width, heads, inner, centred, gated = sizes
    outer, dim, room = 3 * width, width // heads, padded(inner)
    outer_room, lines = padded(outer), (2 if gated else 1) * room
    out_at = outer_room * width
    first_at = out_at + stride * width
    second_at = first_at + lines * width
    input_norm, input_bias = vectors[:width], vectors[width : 2 * width]
    post_norm, post_bias = vectors[2 * width : 3 * width], vectors[3 * width : 4 * width]
    v = 4 * width
    qkv_bias, v = vectors[v : v + outer], v + outer
    out_bias, v = vectors[v : v + width], v + width
    first_bias, v = vectors[v : v + lines], v + lines
    second_bias = vectors[v : v + width]
    scale = np.float32(1.0) / np.sqrt(np.float32(dim))
    blocks = (rows + block - 1) // block
    normed, active = np.empty((block, width), np.float32), np.empty((block, room), np.float32)
    both = np.empty((block, lines), np.float32)
    taken = take(counters, turn, together, -1)
    while taken < blocks:
        first = taken * block
        count = min(block, rows - first)
        norm_some(hidden, first, count, input_norm, input_bias, centred, eps, normed)
        for row in range(first, first + count):
            qkv[row, :outer], qkv[row, outer:] = qkv_bias, 0
        multiply(qkv, first, normed, count, width, matrices, 0, 0, outer_room // PANEL)
        for row in range(first, first + count):
            for head in range(2 * heads):
                own = qkv[row, head * dim : (head + 1) * dim]
                rotate(own, cos[row], sin[row])
                if head < heads:
                    for d in range(dim):
                        own[d] *= scale
        finish(counters, turn, together)
        taken = take(counters, turn, together, taken)
    settle(counters, turn, together, blocks)
    _attend(qkv, bounds, heads, dim, counters, turn + 1, together, mixed)
    taken = take(counters, turn + 2, together, -1)
    while taken < blocks:
        first = taken * block
        count = min(block, rows - first)
        for row in range(first, first + count):
            for i in range(width):
                hidden[row, i] += out_bias[i]
        multiply(hidden, first, mixed[first : first + count], count, width, matrices, out_at, 0, stride // PANEL)
        norm_some(hidden, first, count, post_norm, post_bias, centred, eps, normed)
        for row in range(count):
            both[row] = first_bias
        multiply(both, 0, normed, count, width, matrices, first_at, 0, lines // PANEL)
        if gated:
            gate(both, count, 0, room, active)
        else:
            gelu(both, count, room, curve[0], curve[1])
        for row in range(first, first + count):
            for i in range(width):
                hidden[row, i] += second_bias[i]
        states = active if gated else both
        multiply(hidden, first, states, count, inner, matrices, second_at, 0, stride // PANEL)
        finish(counters, turn + 2, together)
        taken = take(counters, turn + 2, together, taken)
    settle(counters, turn + 2, together, blocks)


def _entry(made_of):
    @entry_point
    def run_block(
        hidden, cos, sin, bounds, matrices, vectors, sizes, curve, eps, qkv, mixed, counters, block, me, team
    ):  # fmt: skip
        """A block by itself; arguments as for `pass_block`."""
        made_of  # noqa: B018
        pass_block(
            hidden, cos, sin, bounds, matrices, vectors, sizes, curve, eps, qkv, mixed, counters, 0, team > 1, block
        )

    return run_block


run_block = _entry(SOURCES)
