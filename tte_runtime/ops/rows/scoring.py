"""The scores of next tokens, and the likeliest, compiled. Output embeddings lie row after row, as they are shared.

Knows arrays; knows no tensor and no sampling.
"""

from __future__ import annotations

import numpy as np

from tte_runtime.ops.rows.numbers import entry_point, widen
from tte_runtime.ops.rows.sources import SOURCES
from tte_runtime.ops.rows.sums import dot, dots_of_4
from tte_runtime.ops.rows.values import norm


def _entry(made_of):
    @entry_point
    def score_tokens(hidden, weight, eps, matrix, scores, first, last):
        """Scores of tokens `first` to `last` after the final norm: hidden [S, C], matrix [V * C], scores [S, V]."""
        made_of  # noqa: B018
        rows, n = hidden.shape
        normed, wide = np.empty(hidden.shape, np.float32), np.empty(n, np.float32)
        for row in range(rows):
            norm(hidden[row], weight, eps, normed[row])
        flat = normed.reshape(-1)
        if rows == 1:
            token = first
            while token + 4 <= last:
                four = dots_of_4(flat, matrix, token * n, n, n)
                scores[0, token], scores[0, token + 1], scores[0, token + 2], scores[0, token + 3] = four
                token += 4
            for t in range(token, last):
                scores[0, t] = dot(flat, 0, matrix, t * n, n)
            return
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
