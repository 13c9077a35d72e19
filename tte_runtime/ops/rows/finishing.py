"""An embedder's last step, compiled: pooling, final norm, cut and L2 norm, states to finished vectors in one call.

Knows arrays; knows no tensor and no head.
"""

from __future__ import annotations

import numpy as np

from tte_runtime.ops.rows.numbers import entry_point
from tte_runtime.ops.rows.sources import SOURCES
from tte_runtime.ops.rows.sums import dot
from tte_runtime.ops.rows.values import norm

LEAST = np.float32(1e-12)  # a vector is divided by no less, as `torch.nn.functional.normalize` does it


def _entry(made_of):
    @entry_point
    def finish(hidden, weight, eps, bounds, dims, normalize, mean, vectors):
        """States before the final norm, hidden [T, C], into vectors [S, C], zeros; row s is of `bounds` s to s + 1.

        Args:
            dims: elements kept of each. normalize: whether each is divided by its L2 norm. mean: average a vector's
                rows; else its last is taken.
        """
        made_of  # noqa: B018
        normed = np.empty(hidden.shape[1], np.float32)
        for s in range(vectors.shape[0]):
            first, last, size, own = bounds[s], bounds[s + 1], dims[s], vectors[s]
            if not mean:
                first = last - 1
            for row in range(first, last):
                norm(hidden[row], weight, eps, normed)
                for i in range(size):
                    own[i] += normed[i]
            scale = np.float32(1.0) / np.float32(last - first)
            for i in range(size):
                own[i] *= scale
            if normalize[s]:
                length = max(np.sqrt(dot(own, 0, own, 0, size)), LEAST)
                for i in range(size):
                    own[i] /= length

    return finish


finish = _entry(SOURCES)
