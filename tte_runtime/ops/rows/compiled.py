"""What a CPU compiles for the rows of a step: all layers of a decoder in one call, or one product.

Numba's language, plain loops and the tiles of `tiles.py`, which LLVM turns into the widest vectors of the machine.
Weights are read in the order in which they lie; arithmetic is float32, whatever weights and pages are kept in. No loop
holds Python's lock, and a team of threads shares a call: few rows by columns of the matrices, so that each weight is
read once; many by rows, piece by piece, so that nobody waits but for keys and values, and no one for who is still
asleep. Knows arrays; knows no tensor, layout or option.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tte_runtime.config import PAGE_SIZE as PAGE
from tte_runtime.ops.rows.attention import TILE, attend_row, attend_rows
from tte_runtime.ops.rows.barrier import finish, meet, settle, share, take
from tte_runtime.ops.rows.numbers import STRICT, entry_point, narrow
from tte_runtime.ops.rows.packed import multiply, room
from tte_runtime.ops.rows.sources import SOURCES
from tte_runtime.ops.rows.tiles import PANEL, padded
from tte_runtime.ops.rows.values import gate, norm, rotate


@njit(**STRICT)
def _angles(positions, axes, inv_freq, factor, first, last, angles):
    """Cos and sin of rows `first` to `last`, [2, R, D/2]; the positions [3, R] of a pair are those of its axis."""
    for row in range(first, last):
        for i in range(inv_freq.shape[0]):
            angle = np.float32(positions[axes[i], row]) * inv_freq[i]
            angles[0, row, i], angles[1, row, i] = np.cos(angle) * factor, np.sin(angle) * factor


@njit(**STRICT)
def _tap(hidden, first, count, slots, width, taps):
    for row in range(first, first + count):
        for i in range(width):
            taps[slots[row], i] = narrow(hidden[row, i], taps[slots[row], i])


@njit(**STRICT)
def _normed(hidden, first, last, weight, eps, out):
    for row in range(first, last):
        norm(hidden[row], weight, eps, out[row - first])


@njit(**STRICT)
def _place(qkv, rows, angles, slots, pages, norms, eps, heads, first, last):
    """Heads `first` to `last` of q, then of k, of `rows`: QK-norm, rotation; q is scaled, k, v go to their slots."""
    kv_heads, dim = pages.shape[2], pages.shape[4]
    scale = np.float32(1.0) / np.sqrt(np.float32(dim))
    for row in range(rows[0], rows[1]):
        page, offset = slots[row] // PAGE, slots[row] % PAGE
        for index in range(first, last):
            head = qkv[row, index * dim : (index + 1) * dim]
            if norms.shape[0]:
                own = norms[:dim] if index < heads else norms[dim:]
                norm(head, own, eps, head)
            rotate(head, angles[0, row], angles[1, row])
            if index < heads:
                for d in range(dim):
                    head[d] *= scale
                continue
            kv_head = index - heads
            value = qkv[row, (index + kv_heads) * dim : (index + kv_heads + 1) * dim]
            key_slot, value_slot = pages[0, page, kv_head, offset], pages[1, page, kv_head, offset]
            for d in range(dim):
                key_slot[d] = narrow(head[d], key_slot[d])
                value_slot[d] = narrow(value[d], value_slot[d])


@njit(**STRICT)
def _attend_decoded(qkv, first, last, kept, table, lengths, heads, me, team, scores, mixed):
    """Rows of one token: this thread's part of all (row, head)."""
    kv_heads, dim = kept.shape[2], kept.shape[4]
    first_item, last_item = share((last - first) * heads, me, team)
    for item in range(first_item, last_item):
        row, head = first + item // heads, item % heads
        part = slice(head * dim, (head + 1) * dim)
        kv_head = head * kv_heads // heads
        attend_row(
            qkv[row, part], kept[0], kept[1], table[row], lengths[row], kv_head, scores, mixed[row - first, part]
        )


@njit(**STRICT)
def _attend_prompts(qkv, first, last, kept, starts, table, lengths, heads, me, team, room, mixed):
    """Rows of prompts: this thread's part of the kv heads, of every prompt that has rows here."""
    kv_heads = kept.shape[2]
    first_head, last_head = share(kv_heads, me, team)
    key_panels, value_panels, scores, out = room
    for prompt in range(lengths.shape[0]):
        begin, end = max(first, starts[prompt]), min(last, starts[prompt + 1])
        if begin >= end:
            continue
        seen = lengths[prompt] - (starts[prompt + 1] - begin) + 1
        for kv_head in range(first_head, last_head):
            attend_rows(
                qkv, begin, end, seen, kept[0], kept[1], table[prompt], kv_head, heads // kv_heads, key_panels,
                value_panels, scores, out, mixed[begin - first : end - first],
            )  # fmt: skip


def _entries(made_of):
    @entry_point
    def run_layers(
        hidden, positions, axes, inv_freq, factor, slots, starts, table, lengths, decode, pages, taps, tap_layer, depth,
        ends, planes, matrices, vectors, sizes, eps, shared, counters, block, me, team,
    ):  # fmt: skip
        """Layers 0 to `depth` over R rows: hidden [R, padded C] becomes the states behind them, pages are written.

        Args:
            positions: [3, R]. axes: [D/2], which of the three turns a pair. inv_freq: [D/2], radians a position;
                factor: of cos and sin. slots: [R], page * 16 + offset.
            starts: [S + 1], where every sequence's rows begin. table: [S, P], pages in order. lengths: [S], tokens
                seen by its last row. decode: every sequence has one row.
            pages: [L, 2, N, K, 16, D]. taps: [N * 16, C], the states before layer `tap_layer`; -1 for none.
            ends: the only rows that are wanted of the last layer, in order; none for all.
            planes: [n, R, C], added behind each of the first n layers.
            matrices, vectors: of all layers, as `packing` lays them. sizes: (C, H, F, 1 where q and k have norms).
            shared: float32 [room], see `stack.py`, seen by all threads. counters: int64 [1 + 4 * depth], 0.
            block: rows of a piece that a thread takes; 0 where threads divide the columns.
        """
        made_of  # noqa: B018
        rows, stride = hidden.shape
        width, heads, inner, has_norms = sizes
        kv_heads, dim = pages.shape[3], pages.shape[5]
        outer, mix = (heads + 2 * kv_heads) * dim, heads * dim
        outer_room, inner_room = padded(outer), padded(inner)
        by_rows = block > 0
        together = by_rows and team > 1
        part, parts = (0, 1) if by_rows else (me, team)
        if not by_rows:
            block = max(rows, 1)
        blocks = (rows + block - 1) // block
        qkv = shared[: rows * outer_room].reshape(rows, outer_room)
        at = rows * outer_room
        angles = shared[at : at + rows * dim].reshape(2, rows, dim // 2)
        at += rows * dim + (me if by_rows else 0) * block * (mix + 3 * inner_room)
        mixed = shared[at : at + block * mix].reshape(block, mix)
        at += block * mix
        both = shared[at : at + block * 2 * inner_room].reshape(block, 2 * inner_room)
        at += block * 2 * inner_room
        active = shared[at : at + block * inner_room].reshape(block, inner_room)
        normed = np.empty((block, width), np.float32)
        longest = padded(lengths.max())
        scores = np.empty((1 if decode else TILE) * longest, np.float32)
        panels = 0 if decode else longest
        keys = (
            np.empty(panels * dim, np.float32), np.empty(panels * padded(dim), np.float32), scores,
            np.empty(TILE * padded(dim), np.float32),
        )  # fmt: skip
        q_first, q_last = share(outer_room // PANEL, part, parts)
        c_first, c_last = share(stride // PANEL, part, parts)
        f_first, f_last = share(inner_room // PANEL, part, parts)
        turn_first, turn_last = share(heads + kv_heads, part, parts)
        m, v, met = 0, 0, 0
        for layer in range(depth):
            kept = pages[layer]
            input_norm, v = vectors[v : v + width], v + width
            bias, v = vectors[v : v + outer], v + outer
            norms, v = vectors[v : v + 2 * dim * has_norms], v + 2 * dim * has_norms
            post_norm, v = vectors[v : v + width], v + width
            taken = take(counters, 2 * layer, together, -1)
            while taken < blocks:
                first = taken * block
                count = min(block, rows - first)
                if layer == tap_layer and part == 0:
                    _tap(hidden, first, count, slots, width, taps)
                if layer == 0 and part == 0:
                    _angles(positions, axes, inv_freq, factor, first, first + count, angles)
                _normed(hidden, first, first + count, input_norm, eps, normed)
                for row in range(first, first + count):
                    for column in range(q_first * PANEL, q_last * PANEL):
                        qkv[row, column] = bias[column] if column < outer else np.float32(0)
                multiply(qkv, first, normed, count, width, matrices, m, q_first, q_last)
                met = meet(counters, parts, met)
                whole = (first, first + count)
                _place(qkv, whole, angles, slots, kept, norms, eps, heads, turn_first, turn_last)
                finish(counters, 2 * layer, together)
                taken = take(counters, 2 * layer, together, taken)
            m += room(matrices, outer_room, width)
            met = meet(counters, parts, met)
            settle(counters, 2 * layer, together, blocks)
            chosen = layer == depth - 1 and ends.shape[0] > 0
            pieces = ends.shape[0] if chosen else blocks
            out_at, gate_at = m, m + room(matrices, stride, mix)
            down_at = gate_at + room(matrices, 2 * inner_room, width)
            m = down_at + room(matrices, stride, inner)
            taken = take(counters, 2 * layer + 1, together, -1)
            while taken < pieces:
                first = ends[taken] if chosen else taken * block
                count = 1 if chosen else min(block, rows - first)
                if decode:
                    _attend_decoded(qkv, first, first + count, kept, table, lengths, heads, part, parts, scores, mixed)
                else:
                    _attend_prompts(
                        qkv, first, first + count, kept, starts, table, lengths, heads, part, parts, keys, mixed
                    )
                met = meet(counters, parts, met)
                multiply(hidden, first, mixed, count, mix, matrices, out_at, c_first, c_last)
                met = meet(counters, parts, met)
                _normed(hidden, first, first + count, post_norm, eps, normed)
                for start in (0, inner_room // PANEL):
                    both[:count, (start + f_first) * PANEL : (start + f_last) * PANEL] = 0
                    multiply(both, 0, normed, count, width, matrices, gate_at, start + f_first, start + f_last)
                gate(both, count, f_first * PANEL, f_last * PANEL, active)
                met = meet(counters, parts, met)
                multiply(hidden, first, active, count, inner, matrices, down_at, c_first, c_last)
                met = meet(counters, parts, met)
                if layer < planes.shape[0]:
                    if part == 0:
                        for row in range(first, first + count):
                            for i in range(width):
                                hidden[row, i] += planes[layer, row, i]
                    met = meet(counters, parts, met)
                if layer + 1 == depth and depth == tap_layer and part == 0:
                    _tap(hidden, first, count, slots, width, taps)
                finish(counters, 2 * layer + 1, together)
                taken = take(counters, 2 * layer + 1, together, taken)
            settle(counters, 2 * layer + 1, together, pieces)

    @entry_point
    def run_product(out, x, n, matrix, counters, block, me, team):
        """out [R, padded O] += x [R, n] times a matrix, in pieces of `block` rows; 0 for a part of the columns."""
        made_of  # noqa: B018
        rows, panels = out.shape[0], out.shape[1] // PANEL
        if block == 0:
            first, last = share(panels, me, team)
            multiply(out, 0, x, rows, n, matrix, 0, first, last)
            return
        taken = take(counters, 0, True, -1)
        while taken * block < rows:
            first, last = taken * block, min(rows, taken * block + block)
            multiply(out, first, x[first:last], last - first, n, matrix, 0, 0, panels)
            taken = take(counters, 0, True, taken)

    return run_layers, run_product


run_layers, run_product = _entries(SOURCES)
