"""A packed matrix, whatever its numbers are kept in: the room it takes, and products of rows with it. Knows arrays."""

from __future__ import annotations

from numba import types
from numba.extending import overload

from tte_runtime.ops.rows.codes import multiply_codes
from tte_runtime.ops.rows.numbers import STRICT
from tte_runtime.ops.rows.packing import CODE_HEAD, PANEL, WORD
from tte_runtime.ops.rows.tiles import multiply as multiply_panels


def multiply(out, row, x, rows, n, panels, base, first, last):
    """Panels `first` to `last` of `rows` rows, from `row` on: out [R, O] += x [rows, >= n] times a packed matrix."""


@overload(multiply, jit_options=STRICT)
def _multiply(out, row, x, rows, n, panels, base, first, last):
    chosen = multiply_codes if panels.dtype == types.int8 else multiply_panels
    return lambda out, row, x, rows, n, panels, base, first, last: chosen(
        out, row, x, rows, n, panels, base, first, last
    )


def room(panels, outputs, n):
    """Elements that a matrix [outputs, n] takes among `panels`; outputs are whole panels."""


@overload(room, jit_options=STRICT)
def _room(panels, outputs, n):
    if panels.dtype == types.int8:
        return lambda panels, outputs, n: outputs // PANEL * (CODE_HEAD + (n + WORD - 1) // WORD * WORD * PANEL)
    return lambda panels, outputs, n: outputs * n
