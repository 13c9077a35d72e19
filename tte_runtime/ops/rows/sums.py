"""Sums over a row in one order, whosever code they are compiled into: two vectors of lanes, then what is left.

Element i goes to lane i % 32 as long as whole panels of 32 last, so that zeros in further panels change no bits. Knows
arrays.
"""

from __future__ import annotations

from numba import njit, types
from numba.extending import intrinsic

from tte_runtime.ops.rows.numbers import STRICT, widen
from tte_runtime.ops.rows.vectors import INDEX, LANES, VECTOR, ZEROS, fold, in_16_bits, load, multiply_add, start_of

STEP = 2 * LANES


def _over_panels(builder, count, rows, add):
    """[rows] sums over `count` whole panels; `add(offset, row, sum)` adds the vector of lanes at an offset to one."""
    entry, head, body, done = builder.block, *(builder.append_basic_block() for _ in range(3))
    builder.branch(head)
    builder.position_at_end(head)
    step, sums = builder.phi(INDEX), [builder.phi(VECTOR) for _ in range(2 * rows)]
    step.add_incoming(INDEX(0), entry)
    builder.cbranch(builder.icmp_signed("<", step, count), body, done)
    builder.position_at_end(body)
    base = builder.mul(step, INDEX(STEP))
    after = [add(builder.add(base, INDEX(index % 2 * LANES)), index // 2, own) for index, own in enumerate(sums)]
    step.add_incoming(builder.add(step, INDEX(1)), body)
    for own, later in zip(sums, after, strict=True):
        own.add_incoming(ZEROS, entry)
        own.add_incoming(later, body)
    builder.branch(head)
    builder.position_at_end(done)
    return [fold(builder, builder.fadd(sums[2 * row], sums[2 * row + 1])) for row in range(rows)]


def _dots(rows):
    @intrinsic
    def dots(context, a, a_at, b, b_at, b_step, panels):
        """Of a's `panels` whole panels from `a_at` with each of `rows` rows of b; `b_step` from one to the next."""
        returns = types.UniTuple(types.float32, rows)

        def codegen(context, builder, signature, arguments):
            left, first = (start_of(context, builder, signature, arguments, number) for number in (0, 2))
            rights = [builder.gep(first, [builder.mul(INDEX(row), arguments[4])]) for row in range(rows)]
            halves = in_16_bits(signature.args[0])

            def add(offset, row, own):
                one = load(builder, builder.gep(left, [offset]), halves)  # LLVM loads it once for all rows
                other = load(builder, builder.gep(rights[row], [offset]), in_16_bits(signature.args[2]))
                return multiply_add(builder, one, other, own)

            sums = _over_panels(builder, arguments[5], rows, add)
            return context.make_tuple(builder, returns, sums)

        return returns(a, types.int64, b, types.int64, types.int64, types.int64), codegen

    return dots


@intrinsic
def _panel_sum(context, x, at, panels):
    """Of x's `panels` whole panels from `at`."""

    def codegen(context, builder, signature, arguments):
        start = start_of(context, builder, signature, arguments, 0)

        def add(offset, row, own):
            return builder.fadd(own, load(builder, builder.gep(start, [offset]), False))

        return _over_panels(builder, arguments[2], 1, add)[0]

    return types.float32(x, types.int64, types.int64), codegen


_dots_1, _dots_4 = _dots(1), _dots(4)


@njit(forceinline=True, **STRICT)
def dot(a, a_at, b, b_at, n):
    """Of n elements of two flat arrays, either of which may be kept in 16 bits."""
    panels = n // STEP
    total = _dots_1(a, a_at, b, b_at, 0, panels)[0]
    for i in range(panels * STEP, n):
        total += widen(a[a_at + i]) * widen(b[b_at + i])
    return total


@njit(forceinline=True, **STRICT)
def dots_of_4(a, b, b_at, b_step, n):
    """As `dot` of `a` with each of four rows of `b`, which is flat."""
    panels = n // STEP
    t0, t1, t2, t3 = _dots_4(a, 0, b, b_at, b_step, panels)
    for i in range(panels * STEP, n):
        value, at = widen(a[i]), b_at + i
        t0 += value * widen(b[at])
        t1 += value * widen(b[at + b_step])
        t2 += value * widen(b[at + 2 * b_step])
        t3 += value * widen(b[at + 3 * b_step])
    return t0, t1, t2, t3


@njit(forceinline=True, **STRICT)
def add_up(x, at, n):
    """The sum of n elements of a flat array."""
    panels = n // STEP
    total = _panel_sum(x, at, panels)
    for i in range(panels * STEP, n):
        total += x[at + i]
    return total
