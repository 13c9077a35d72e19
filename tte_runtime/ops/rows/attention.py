"""Attention over pages, compiled: one row over its own tokens, or a prompt's rows over theirs, causally.

A prompt's scores and sums are products like those with weights: keys and values are laid out as panels first, once
for all rows. What a row does not see yet counts as zero, so its bits do not depend on the rows beside it, nor on how
the prompt is cut. Slots that no token has written are never read. Knows pages; knows no layer.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tte_runtime.config import PAGE_SIZE as PAGE
from tte_runtime.ops.rows.numbers import STRICT, exp, widen
from tte_runtime.ops.rows.sums import add_up, dot
from tte_runtime.ops.rows.tiles import PANEL, add_product, padded

TILE = 12  # rows whose scores are in work at once


@njit(**STRICT)
def attend_row(q, keys, values, table, length, kv_head, scores, out):
    """Attention of one scaled query over the first `length` tokens of its pages, [N, K, 16, D]."""
    top, dim = np.float32(-np.inf), q.shape[0]
    flat, step = keys.reshape(-1), keys.shape[1] * PAGE * dim
    for t in range(length):
        at = table[t // PAGE] * step + (kv_head * PAGE + t % PAGE) * dim
        score = dot(flat, at, q, 0, dim)
        scores[t] = score
        top = max(top, score)
    for t in range(length):
        scores[t] = exp(scores[t] - top)
    total = add_up(scores, 0, length)
    out[:] = 0
    for t in range(length):
        portion, value = scores[t] / total, values[table[t // PAGE], kv_head, t % PAGE]
        for d in range(dim):
            out[d] += portion * widen(value[d])


@njit(**STRICT)
def attend_rows(
    qkv, first, last, seen, keys, values, table, kv_head, group, key_panels, value_panels, scores, out, mixed
):  # fmt: skip
    """One kv head of one prompt: rows `first` to `last` of the step, the first of which sees `seen` tokens.

    Args:
        qkv: [R, O], queries scaled. keys, values: [N, K, 16, D]. table: [P].
        key_panels, value_panels: room for padded(length) * padded(D). scores: for 12 * padded(length);
            out: for 12 * padded(D). mixed: [last - first, H * D], gets the heads of this kv head.
    """
    dim = keys.shape[3]
    total = seen + last - first - 1
    room = padded(total)
    _lay_out(keys, values, table, kv_head, total, key_panels, value_panels)
    flat, step = qkv.reshape(-1), qkv.shape[1]
    for head in range(kv_head * group, (kv_head + 1) * group):
        for row in range(first, last, TILE):
            attend_tile(
                flat, row * step + head * dim, step, min(TILE, last - row), seen + row - first, 1, dim, key_panels,
                value_panels, room, scores, out, mixed, row - first, head * dim,
            )  # fmt: skip


@njit(**STRICT)
def attend_tile(
    q, q_at, q_step, rows, seen, grow, dim, key_panels, value_panels, room, scores, out, mixed, row, column
):  # fmt: skip
    """Up to 12 rows of one head, over keys and values that lie as panels, `room` rows of them.

    Args:
        q: flat; row r's query begins at q_at + r * q_step, scaled. seen: keys that the first row sees; each row sees
            `grow` more than the one before.
        scores, out: room, as for `attend_rows`. mixed: row r's head goes to [row + r, column:].
    """
    most = seen + grow * (rows - 1)
    width, wide = padded(most), padded(dim)
    scores[: rows * width] = 0
    add_product(scores, 0, width, q, q_at, q_step, rows, dim, key_panels, 0, dim * PANEL, 0, width // PANEL)
    out[: rows * wide] = 0
    for i in range(rows):
        _exponentials(scores[i * width : (i + 1) * width], seen + grow * i)
    add_product(out, 0, wide, scores, 0, width, rows, most, value_panels, 0, room * PANEL, 0, wide // PANEL)
    for i in range(rows):
        scale = np.float32(1.0) / add_up(scores, i * width, width)
        target = mixed[row + i]
        for d in range(dim):
            target[column + d] = out[i * wide + d] * scale


@njit(**STRICT)
def _lay_out(keys, values, table, kv_head, total, key_panels, value_panels):
    """Keys as a matrix of `total` outputs and values as one of D outputs, in panels; zeros where a panel goes on."""
    dim = keys.shape[3]
    room, wide = padded(total), padded(dim)
    for t in range(room):
        at = t // PANEL * dim * PANEL + t % PANEL
        if t >= total:
            for d in range(dim):
                key_panels[at + d * PANEL] = 0
            continue
        key, value = keys[table[t // PAGE], kv_head, t % PAGE], values[table[t // PAGE], kv_head, t % PAGE]
        for d in range(dim):
            key_panels[at + d * PANEL] = widen(key[d])
        for d in range(wide):
            value_panels[(d // PANEL * room + t) * PANEL + d % PANEL] = widen(value[d]) if d < dim else np.float32(0)


@njit(**STRICT)
def _exponentials(scores, seen):
    """Of the first `seen` scores, in place, the largest of them 1; zero behind."""
    top = np.float32(-np.inf)
    for t in range(seen):
        top = max(top, scores[t])
    for t in range(seen):
        scores[t] = exp(scores[t] - top)
    scores[seen:] = 0
