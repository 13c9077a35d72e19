"""The scores of next tokens, and the likeliest, compiled. Output embeddings lie row after row, as they are shared, or
as codes of 8 bits in panels.

Knows arrays; knows no tensor and no sampling.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import overload

from tte_runtime.ops.rows.barrier import share
from tte_runtime.ops.rows.codes import multiply_codes
from tte_runtime.ops.rows.numbers import STRICT, entry_point, widen
from tte_runtime.ops.rows.sources import SOURCES
from tte_runtime.ops.rows.sums import dot, dots_of_4
from tte_runtime.ops.rows.tiles import PANEL, padded
from tte_runtime.ops.rows.values import norm


@njit(**STRICT)
def _score_rows(normed, matrix, scores, me, team):
    """This thread's tokens, whose embeddings lie row after row: matrix [V * C]."""
    (rows, n), flat, size = normed.shape, normed.reshape(-1), scores.shape[1]
    first, last = share(size, me, team)
    if rows == 1:
        token = first
        while token + 4 <= last:
            four = dots_of_4(flat, matrix, token * n, n, n)
            scores[0, token], scores[0, token + 1], scores[0, token + 2], scores[0, token + 3] = four
            token += 4
        for t in range(token, last):
            scores[0, t] = dot(flat, 0, matrix, t * n, n)
        return
    wide = np.empty(n, np.float32)
    for token in range(first, last):
        for i in range(n):
            wide[i] = widen(matrix[token * n + i])
        row = 0
        while row + 4 <= rows:
            four = dots_of_4(wide, flat, row * n, n, n)
            scores[row, token], scores[row + 1, token], scores[row + 2, token], scores[row + 3, token] = four
            row += 4
        for r in range(row, rows):
            scores[r, token] = dot(wide, 0, flat, r * n, n)


@njit(**STRICT)
def _score_codes(normed, matrix, scores, me, team):
    """This thread's tokens, whose embeddings are codes in panels."""
    (rows, n), size = normed.shape, scores.shape[1]
    panels = padded(size) // PANEL
    first, last = share(panels, me, team)
    out = np.zeros((rows, (last - first) * PANEL), np.float32)
    multiply_codes(out, 0, normed, rows, n, matrix, matrix.shape[0] // panels * first, 0, last - first)
    begin, end = first * PANEL, min(last * PANEL, size)
    scores[:, begin:end] = out[:, : end - begin]


def _score(normed, matrix, scores, me, team):
    """Of the tokens that are this thread's."""


@overload(_score, jit_options=STRICT)
def _score_any(normed, matrix, scores, me, team):
    chosen = _score_codes if matrix.dtype == types.int8 else _score_rows
    return lambda normed, matrix, scores, me, team: chosen(normed, matrix, scores, me, team)


def _entry(made_of):
    @entry_point
    def score_tokens(hidden, weight, eps, matrix, scores, me, team):
        """Scores of one thread's share of all tokens after the final norm: hidden [S, C], scores [S, V]; the matrix
        is [V * C], or codes as `packing.pack_codes` lays them.
        """
        made_of  # noqa: B018
        normed = np.empty(hidden.shape, np.float32)
        for row in range(hidden.shape[0]):
            norm(hidden[row], weight, eps, normed[row])
        _score(normed, matrix, scores, me, team)

    return score_tokens


score_tokens = _entry(SOURCES)


@entry_point
def likeliest(scores, tokens):
    """The highest score of each row, of equal ones the first; a NaN counts as the highest."""
    for row in range(scores.shape[0]):
        own, best = scores[row], 0
        for token in range(1, own.shape[0]):
            if own[token] > own[best] or (own[token] != own[token] and own[best] == own[best]):
                best = token
        tokens[row] = best
