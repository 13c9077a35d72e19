"""Products of rows with a matrix of 8 bits (`w8a8`): codes times codes, added up as whole numbers.

A matrix lies in panels of 32 outputs as in `tiles.py`; each panel begins with what belongs to its outputs, and four
inputs of an output lie side by side, which is what one instruction multiplies and adds (Intel's VNNI; elsewhere LLVM
puts the same sums together). A row gets codes with a scale of its own, so its bits depend on nothing but the row, and
sums of whole numbers have no order. Knows arrays.
"""

from __future__ import annotations

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from tte_runtime.ops.rows.numbers import STRICT
from tte_runtime.ops.rows.packing import CODE_HEAD, PANEL, WORD
from tte_runtime.ops.rows.tiles import TALLEST, prefetch
from tte_runtime.ops.rows.vectors import INDEX, LANES, VECTOR, WORDS, add_up_steps, spread, start_of

LINE = PANEL * WORD  # bytes of a panel for one word of inputs
PARTS = PANEL // LANES
# The host's instruction; Numba may have been told to compile for less than the host.
HAS_VNNI = bool(llvmlite.binding.get_host_cpu_features().get("avx512vnni")) and not (
    config.CPU_NAME or config.CPU_FEATURES is not None
)
_LARGEST, _ZERO = np.float32(127.0), np.int32(128)
_FINITE, _NO_SIGN = np.uint32(0x7F7FFFFF), np.uint32(0x7FFFFFFF)


def _add_words(builder, sums, inputs, weights, *, vnni):
    """sums + four unsigned codes times four signed ones, in every lane."""
    if vnni:
        kind = ir.FunctionType(WORDS, [WORDS] * 3)
        name = "llvm.x86.avx512.vpdpbusd.512"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [sums, inputs, weights])

    def lanes(value):
        return ir.Constant(WORDS, [value] * LANES)

    for byte in range(WORD):
        signed = builder.ashr(builder.shl(weights, lanes(24 - 8 * byte)), lanes(24))
        unsigned = builder.and_(builder.lshr(inputs, lanes(8 * byte)), lanes(255))
        sums = builder.add(sums, builder.mul(signed, unsigned))
    return sums


def make_tile(rows, side, *, vnni=HAS_VNNI):
    """A compiled call: `rows` rows of `out`, `side` panels wide, += codes [rows, words] times as many panels."""

    @intrinsic
    def add_tile(
        context, out, out_at, out_step, codes, code_at, code_step, scales, scale_at, panels, panel_at, panel_step, words
    ):
        integer = types.int64
        signature = types.void(
            out, integer, integer, codes, integer, integer, scales, integer, panels, integer, integer, integer
        )

        def codegen(context, builder, signature, arguments):
            def moved(pointer, step, times):
                return builder.gep(pointer, [builder.mul(INDEX(times), step)])

            def words_at(pointer, offset):
                place = builder.bitcast(builder.gep(pointer, [offset]), WORDS.as_pointer())
                return builder.load(place, align=4)

            out_step, code_step, panel_step, count = (arguments[index] for index in (2, 5, 10, 11))
            out, codes, scales, panel = (start_of(context, builder, signature, arguments, at) for at in (0, 3, 6, 8))
            parts = range(side * PARTS)
            panels = [moved(panel, panel_step, part // PARTS) for part in parts]
            inputs = [builder.bitcast(moved(codes, code_step, row), ir.IntType(32).as_pointer()) for row in range(rows)]

            def add(k, sums):
                line = builder.add(builder.mul(k, INDEX(LINE)), INDEX(CODE_HEAD))
                weights = [
                    words_at(own, builder.add(line, INDEX(part % PARTS * LANES * WORD)))
                    for part, own in zip(parts, panels, strict=True)
                ]
                if rows >= 6:  # while so many rows are computed, the next panel comes out of memory
                    prefetch(builder, builder.gep(panel, [builder.add(line, panel_step)]), LINE)
                wide = [spread(builder, builder.load(builder.gep(one, [k]), align=4), WORDS) for one in inputs]
                return [
                    _add_words(builder, own, wide[index // len(parts)], weights[index % len(parts)], vnni=vnni)
                    for index, own in enumerate(sums)
                ]

            nothing = ir.Constant(WORDS, [0] * LANES)
            after = add_up_steps(builder, count, nothing, rows * len(parts), add)
            for index, total in enumerate(after):
                row, part = divmod(index, len(parts))
                head = part % PARTS * LANES * WORD  # scales, then what inputs' zero adds to each output
                scale = builder.bitcast(words_at(panels[part], INDEX(head)), VECTOR)
                zero = words_at(panels[part], INDEX(PANEL * WORD + head))
                product = builder.fmul(builder.sitofp(builder.sub(total, zero), VECTOR), scale)
                product = builder.fmul(product, spread(builder, builder.load(builder.gep(scales, [INDEX(row)]))))
                place = builder.gep(moved(out, out_step, row), [INDEX(part * LANES)])
                place = builder.bitcast(place, VECTOR.as_pointer())
                builder.store(builder.fadd(builder.load(place, align=4), product), place, align=4)
            return context.get_dummy_value()

        return signature, codegen

    return add_tile


_tile_1, _tile_2, _tile_3, _tile_6, _tile_12 = (make_tile(rows, 1) for rows in (1, 2, 3, 6, 12))
_tile_1_by_4 = make_tile(1, 4)


@njit(**STRICT)
def encode(x, n, codes):
    """Codes of x's first n elements, 128 for zero and behind them; returns the scale, NaN where x is not finite."""
    largest = np.uint32(0)
    for i in range(n):
        largest = max(largest, np.uint32(np.float32(x[i]).view(np.uint32) & _NO_SIGN))  # a NaN is larger than infinity
    codes[:] = np.uint8(_ZERO)
    if largest > _FINITE:
        return np.float32(np.nan)
    most = max(np.uint32(largest).view(np.float32), np.float32(1e-30))  # of a row of zeros
    for i in range(n):
        codes[i] = np.uint8(np.int32(np.rint(x[i] / most * _LARGEST)) + _ZERO)
    return most / _LARGEST


@njit(**STRICT)
def multiply_codes(out, row, x, rows, n, panels, base, first, last):
    """As `tiles.multiply` with a matrix of 8 bits."""
    words = (n + WORD - 1) // WORD
    codes, scales = np.empty((rows, words * WORD), np.uint8), np.empty(rows, np.float32)
    for r in range(rows):
        scales[r] = encode(x[r], n, codes[r])
    step, width, stride = CODE_HEAD + words * LINE, words * WORD, out.shape[1]
    flat, inputs, at = out.reshape(-1), codes.reshape(-1), row * out.shape[1]
    p = first
    while p < last:
        panel, column, r = base + p * step, at + p * PANEL, 0
        if rows == 1 and last - p >= 4:
            _tile_1_by_4(flat, column, stride, inputs, 0, width, scales, 0, panels, panel, step, words)
            p += 4
            continue
        while r < rows:
            left, o, c = rows - r, column + r * stride, r * width
            if TALLEST >= 12 and left >= 12:
                _tile_12(flat, o, stride, inputs, c, width, scales, r, panels, panel, step, words)
                r += 12
            elif TALLEST >= 6 and left >= 6:
                _tile_6(flat, o, stride, inputs, c, width, scales, r, panels, panel, step, words)
                r += 6
            elif left >= 3:
                _tile_3(flat, o, stride, inputs, c, width, scales, r, panels, panel, step, words)
                r += 3
            elif left >= 2:
                _tile_2(flat, o, stride, inputs, c, width, scales, r, panels, panel, step, words)
                r += 2
            else:
                _tile_1(flat, o, stride, inputs, c, width, scales, r, panels, panel, step, words)
                r += 1
        p += 1
