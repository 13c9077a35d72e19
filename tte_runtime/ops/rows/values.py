"""The arithmetic of single rows: widening and rounding, sums, norms, turns, gates; compiled into whoever calls it.

Arithmetic is float32 whatever is kept. Knows rows; knows no layer, page or thread.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import overload

# Sums may be split over vector lanes; nothing else is relaxed: NaN and infinity keep their meaning.
FAST = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
STRICT = {"nogil": True, "error_model": "numpy"}


def widen(value):
    """float32 of a weight or a kept value: as it is, or bfloat16 that is kept as uint16."""


@overload(widen, jit_options=STRICT)
def _widen(value):
    if value == types.uint16:
        return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)
    return lambda value: value


def narrow(value, like):
    """`value` as what `like` is kept in, rounded to the nearest, ties to even."""


@overload(narrow, jit_options=STRICT)
def _narrow(value, like):
    if like == types.uint16:

        def rounded(value, like):
            bits = np.float32(value).view(np.uint32)
            if value != value:
                return np.uint16(0x7FC0)
            return np.uint16(
                np.uint32(bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            )

        return rounded
    return lambda value, like: value


@njit(**STRICT)
def exp(x):
    """e**x within 2 units of the last place, x cut to -87 to 88: Cody and Waite's reduction, a polynomial, bits."""
    x = min(max(x, np.float32(-87.0)), np.float32(88.0))
    whole = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    rest = x - whole * np.float32(0.693359375) + whole * np.float32(2.12194440e-4)
    y = np.float32(1.9875691e-4)
    for factor in (1.3981999e-3, 8.3334519e-3, 4.1665796e-2, 1.6666665e-1, 0.5):
        y = y * rest + np.float32(factor)
    y = y * rest * rest + rest + np.float32(1.0)
    return y * np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)


@njit(**FAST)
def dot(a, b):
    """Of two vectors of one length; `a` may be kept in 16 bits."""
    total = np.float32(0)
    for i in range(b.shape[0]):
        total += widen(a[i]) * b[i]
    return total


@njit(**FAST)
def norm(x, weight, eps, out):
    """RMSNorm of one row; `weight` says how many elements it has."""
    size = weight.shape[0]
    scale = np.float32(1.0) / np.sqrt(dot(x[:size], x[:size]) / np.float32(size) + np.float32(eps))
    for i in range(size):
        out[i] = x[i] * scale * weight[i]


@njit(**FAST)
def centred_norm(x, weight, bias, eps, out):
    """LayerNorm of one row; `weight` says how many elements it has."""
    size = weight.shape[0]
    mean, variance = np.float32(0), np.float32(0)
    for i in range(size):
        mean += x[i]
    mean /= np.float32(size)
    for i in range(size):
        variance += (x[i] - mean) * (x[i] - mean)
    scale = np.float32(1.0) / np.sqrt(variance / np.float32(size) + np.float32(eps))
    for i in range(size):
        out[i] = (x[i] - mean) * scale * weight[i] + bias[i]


@njit(**FAST)
def rotate(head, cos, sin):
    """Turn the first half of a head against the second, in place."""
    half = cos.shape[0]
    for i in range(half):
        a, b = head[i], head[half + i]
        head[i] = a * cos[i] - b * sin[i]
        head[half + i] = b * cos[i] + a * sin[i]


@njit(**FAST)
def gate(both, rows, first, last, out):
    """silu(gate) * up of columns `first` to `last` of `rows` rows; gates and ups lie side by side, [R, 2F]."""
    inner = out.shape[1]
    for row in range(rows):
        gates, ups, active = both[row, :inner], both[row, inner:], out[row]
        for i in range(first, last):
            active[i] = gates[i] / (np.float32(1.0) + exp(-gates[i])) * ups[i]


@njit(**FAST)
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
