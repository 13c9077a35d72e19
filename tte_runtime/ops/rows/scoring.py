"""The scores of next tokens, and the likeliest, compiled. Output embeddings lie row after row, as they are shared.

Knows arrays; knows no tensor and no sampling.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tte_runtime.ops.rows.sources import SOURCES
from tte_runtime.ops.rows.values import FAST, STRICT, dot, norm, widen


@njit(**FAST)
def _dot_of_4(a, b0, b1, b2, b3):
    t0, t1, t2, t3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for i in range(a.shape[0]):
        value = a[i]
        t0 += value * b0[i]
        t1 += value * b1[i]
        t2 += value * b2[i]
        t3 += value * b3[i]
    return t0, t1, t2, t3


def _entry(made_of):
    @njit(cache=True, **FAST)
    def score_tokens(hidden, weight, eps, matrix, scores, first, last):
        """Scores of tokens `first` to `last` after the final norm: hidden [S, C], matrix [V * C], scores [S, V]."""
        made_of  # noqa: B018
        rows, n = hidden.shape
        normed, wide = np.empty(hidden.shape, np.float32), np.empty(n, np.float32)
        for row in range(rows):
            norm(hidden[row], weight, eps, normed[row])
        for token in range(first, last):
            weights = matrix[token * n : (token + 1) * n]
            if rows == 1:
                scores[0, token] = dot(weights, normed[0])
                continue
            for i in range(n):
                wide[i] = widen(weights[i])
            row = 0
            while row + 4 <= rows:
                four = _dot_of_4(wide, normed[row], normed[row + 1], normed[row + 2], normed[row + 3])
                scores[row, token], scores[row + 1, token], scores[row + 2, token], scores[row + 3, token] = four
                row += 4
            for r in range(row, rows):
                scores[r, token] = dot(wide, normed[r])

    return score_tokens


score_tokens = _entry(SOURCES)


@njit(cache=True, **STRICT)
def likeliest(scores, tokens):
    """The highest score of each row, of equal ones the first; a NaN counts as the highest."""
    for row in range(scores.shape[0]):
        own, best = scores[row], 0
        for token in range(1, own.shape[0]):
            if own[token] > own[best] or (own[token] != own[token] and own[best] == own[best]):
                best = token
        tokens[row] = best
