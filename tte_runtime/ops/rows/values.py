"""The arithmetic of single rows: norms, turns, gates; compiled into whoever calls it.

Arithmetic is float32 whatever is kept. Knows rows; knows no layer, page or thread.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tte_runtime.ops.rows.numbers import STRICT, exp
from tte_runtime.ops.rows.sums import add_up, dot


@njit(**STRICT)
def norm(x, weight, eps, out):
    """RMSNorm of one row; `weight` says how many elements it has."""
    size = weight.shape[0]
    scale = np.float32(1.0) / np.sqrt(dot(x, 0, x, 0, size) / np.float32(size) + np.float32(eps))
    for i in range(size):
        out[i] = x[i] * scale * weight[i]


@njit(**STRICT)
def centred_norm(x, weight, bias, eps, out):
    """LayerNorm of one row; `weight` says how many elements it has."""
    size = weight.shape[0]
    mean = add_up(x, 0, size) / np.float32(size)
    for i in range(size):
        out[i] = x[i] - mean
    scale = np.float32(1.0) / np.sqrt(dot(out, 0, out, 0, size) / np.float32(size) + np.float32(eps))
    for i in range(size):
        out[i] = out[i] * scale * weight[i] + bias[i]


@njit(**STRICT)
def rotate(head, cos, sin):
    """Turn the first half of a head against the second, in place."""
    half = cos.shape[0]
    for i in range(half):
        a, b = head[i], head[half + i]
        head[i] = a * cos[i] - b * sin[i]
        head[half + i] = b * cos[i] + a * sin[i]


@njit(**STRICT)
def gate(both, rows, first, last, out):
    """silu(gate) * up of columns `first` to `last` of `rows` rows; gates and ups lie side by side, [R, 2F]."""
    inner = out.shape[1]
    for row in range(rows):
        gates, ups, active = both[row, :inner], both[row, inner:], out[row]
        for i in range(first, last):
            active[i] = gates[i] / (np.float32(1.0) + exp(-gates[i])) * ups[i]


@njit(**STRICT)
def gelu(states, rows, size, linear, cubic):
    """x * sigmoid(linear * x + cubic * x**3) of `size` columns of `rows` rows, in place.

    With 1.702 and 0 it is QuickGELU; with 2 * sqrt(2 / pi) and 0.044715 times that, GELU by its tanh formula, because
    (1 + tanh(z)) / 2 = sigmoid(2 * z) (arXiv 1606.08415, section 2).
    """
    for row in range(rows):
        own = states[row]
        for i in range(size):
            x = own[i]
            own[i] = x / (np.float32(1.0) + exp(-x * (linear + cubic * x * x)))


@njit(**STRICT)
def whole_gelu(states, rows, size):
    """x times the normal distribution's share below x, of `size` columns of `rows` rows, in place: GELU by the error
    function, within 2e-7 of |x| (Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26).
    """
    for row in range(rows):
        own = states[row]
        for i in range(size):
            x = own[i]
            z = abs(x) * np.float32(0.70710678)
            t = np.float32(1.0) / (np.float32(1.0) + np.float32(0.3275911) * z)
            y = np.float32(1.061405429)
            for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
                y = y * t + np.float32(factor)
            above = np.float32(0.5) * y * t * exp(-z * z)  # of |x|
            own[i] = x * (above if x < 0 else np.float32(1.0) - above)
