"""Products of rows with a packed matrix, in tiles that stay in registers.

A matrix [O, I] lies in panels of 32 outputs, [ceil(O / 32), I, 32], so that a tile of up to 12 rows reads every weight
once for all its rows, in the order in which it lies. Each element of a product is summed over I in order, by one
multiply-add after another and from zero, however many rows there are and whoever computes them: a row's bits depend on
nothing but the row. The tile is written in LLVM's own language, because Numba has no word for a vector. Knows arrays.
"""

from __future__ import annotations

import llvmlite.binding
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from tte_runtime.ops.rows.numbers import STRICT
from tte_runtime.ops.rows.packing import PANEL, whole_panels
from tte_runtime.ops.rows.vectors import (
    INDEX,
    LANES,
    VECTOR,
    ZEROS,
    add_up_steps,
    in_16_bits,
    load,
    multiply_add,
    spread,
    start_of,
)

LINE = 64  # bytes that memory gives at a time
DEPTH = 768  # inputs of a pass: a panel of them stays in the second cache, the rows of a tile in the first
TALLEST = (
    12 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 3
)  # rows whose sums fit the registers beside the weights

padded = njit(**STRICT)(whole_panels)


def prefetch(builder, pointer, size):
    """Ask for `size` bytes that will be read soon; beyond the end of an array it does nothing."""
    byte = ir.IntType(8).as_pointer()
    words = [ir.IntType(32)] * 3
    call = builder.module.declare_intrinsic("llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, *words]))
    start = builder.bitcast(pointer, byte)
    for offset in range(0, size, LINE):
        line = builder.gep(start, [INDEX(offset)])
        builder.call(call, [line, ir.Constant(words[0], 0), ir.Constant(words[0], 3), ir.Constant(words[0], 1)])


def _tile(rows, side):
    """A compiled call: `rows` rows of `out`, `side` panels wide, += x [rows, n] times as many panels [n, PANEL]."""

    @intrinsic
    def add_tile(context, out, out_at, out_step, x, x_at, x_step, panels, panel_at, panel_step, n):
        signature = types.void(out, *[types.int64] * 2, x, *[types.int64] * 2, panels, *[types.int64] * 3)

        def codegen(context, builder, signature, arguments):
            def moved(pointer, step, times):
                return builder.gep(pointer, [builder.mul(INDEX(times), step)])

            _, _, out_step, _, _, x_step, _, _, panel_step, n = arguments
            out, x, panel = (start_of(context, builder, signature, arguments, number) for number in (0, 3, 6))
            halves = in_16_bits(signature.args[6])
            parts = range(0, side * PANEL, LANES)
            places = [
                builder.bitcast(builder.gep(moved(out, out_step, row), [INDEX(part)]), VECTOR.as_pointer())
                for row in range(rows)
                for part in parts
            ]
            inputs = [moved(x, x_step, row) for row in range(rows)]

            def add(k, sums):
                line = builder.mul(k, INDEX(PANEL))
                weights = [
                    load(
                        builder,
                        builder.gep(moved(panel, panel_step, part // PANEL), [builder.add(line, INDEX(part % PANEL))]),
                        halves,
                    )
                    for part in parts
                ]
                if rows >= 6:  # while so many rows are computed, the next panel comes out of memory
                    ahead = builder.gep(panel, [builder.add(line, panel_step)])
                    prefetch(builder, ahead, PANEL * (2 if halves else 4))
                wide = [spread(builder, builder.load(builder.gep(one, [k]))) for one in inputs]
                return [
                    multiply_add(builder, wide[index // len(parts)], weights[index % len(parts)], own)
                    for index, own in enumerate(sums)
                ]

            after = add_up_steps(builder, n, ZEROS, len(places), add)
            for place, value in zip(places, after, strict=True):  # what is added to is rounded once, not at every step
                builder.store(builder.fadd(builder.load(place, align=4), value), place, align=4)
            return context.get_dummy_value()

        return signature, codegen

    return add_tile


_tile_1, _tile_2, _tile_3, _tile_6, _tile_12 = (_tile(rows, 1) for rows in (1, 2, 3, 6, 12))
_tile_1_by_2, _tile_1_by_3, _tile_1_by_4 = (_tile(1, side) for side in (2, 3, 4))


@njit(**STRICT)
def _add_row(out, out_at, x, x_at, n, panels, base, step, first, last):
    """As `add_product` for one row and n of one pass: panels side by side, so that no sum waits for the one before."""
    p = first
    while p < last:
        left, o, panel = last - p, out_at + p * PANEL, base + p * step
        if left == 4 or left >= 6:
            _tile_1_by_4(out, o, 0, x, x_at, 0, panels, panel, step, n)
            p += 4
        elif left >= 3:
            _tile_1_by_3(out, o, 0, x, x_at, 0, panels, panel, step, n)
            p += 3
        elif left == 2:
            _tile_1_by_2(out, o, 0, x, x_at, 0, panels, panel, step, n)
            p += 2
        else:
            _tile_1(out, o, 0, x, x_at, 0, panels, panel, step, n)
            p += 1


@njit(**STRICT)
def add_product(out, out_at, out_step, x, x_at, x_step, rows, n, panels, base, step, first, last):
    """Columns of panels `first` to `last` of `rows` rows: out += x times a packed matrix. All arrays are flat.

    Row r of `out` begins at out_at + r * out_step, that of `x` [n] at x_at + r * x_step; panel p at base + p * step.
    """
    for k in range(0, n, DEPTH):
        part = min(DEPTH, n - k)
        if rows == 1:
            _add_row(out, out_at, x, x_at + k, part, panels, base + k * PANEL, step, first, last)
            continue
        for p in range(first, last):
            panel, column, row = base + p * step + k * PANEL, out_at + p * PANEL, 0
            while row < rows:
                left, o, i = rows - row, column + row * out_step, x_at + row * x_step + k
                if TALLEST >= 12 and left >= 12:
                    _tile_12(out, o, out_step, x, i, x_step, panels, panel, step, part)
                    row += 12
                elif TALLEST >= 6 and left >= 6:
                    _tile_6(out, o, out_step, x, i, x_step, panels, panel, step, part)
                    row += 6
                elif left >= 3:
                    _tile_3(out, o, out_step, x, i, x_step, panels, panel, step, part)
                    row += 3
                elif left >= 2:
                    _tile_2(out, o, out_step, x, i, x_step, panels, panel, step, part)
                    row += 2
                else:
                    _tile_1(out, o, out_step, x, i, x_step, panels, panel, step, part)
                    row += 1


@njit(**STRICT)
def multiply(out, row, x, rows, n, panels, base, first, last):
    """Panels `first` to `last` of `rows` rows, from `row` on: out [R, O] += x [rows, >= n] times a packed matrix."""
    add_product(
        out.reshape(-1), row * out.shape[1], out.shape[1], x.reshape(-1), 0, x.shape[1], rows, n, panels, base,
        n * PANEL, first, last,
    )  # fmt: skip
