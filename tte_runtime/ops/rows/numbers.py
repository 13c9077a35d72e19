"""Single numbers: bfloat16 that is kept in 16 bits, rounding to it, the exponential; and how all of this is compiled.

Nothing is left to the compiler's taste. LLVM compiles a function anew for each of its callers and the linker picks a
copy, so one that may sum in any order, or fuse at will, has no bits of its own.
"""

from __future__ import annotations

import functools
import sys

import numpy as np
from numba import njit, types
from numba.extending import overload

STRICT = {"nogil": True, "error_model": "numpy"}


def entry_point(function):
    """Compile what Python calls; its machine code is kept on disk for later starts, where a folder can be written."""
    try:
        return njit(cache=True, **STRICT)(function)
    except RuntimeError:  # Numba found no folder, neither beside the file nor in the user's own
        _say_not_kept()
        return njit(**STRICT)(function)


@functools.cache
def _say_not_kept():
    print(
        "compiled code cannot be kept: neither the package's folder nor the user's can be written, so that every start "
        "compiles anew. Set NUMBA_CACHE_DIR to a folder that can.",
        file=sys.stderr,
        flush=True,
    )


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
