"""Words for vectors that Numba lacks, in LLVM's own language: 16 lanes of float32, on any machine."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils

LANES = 16
FLOAT, INDEX = ir.FloatType(), ir.IntType(64)
VECTOR, HALVES, WORDS = (ir.VectorType(kind, LANES) for kind in (FLOAT, ir.IntType(16), ir.IntType(32)))
ZEROS = ir.Constant(VECTOR, [0.0] * LANES)


def start_of(context, builder, signature, arguments, number):
    """A pointer into the array that is argument `number`, at the index that is the argument behind it."""
    array = context.make_array(signature.args[number])(context, builder, arguments[number])
    return builder.gep(array.data, [arguments[number + 1]])


def in_16_bits(array):
    """Whether a type of arrays keeps bfloat16 as uint16."""
    return array.dtype == types.uint16


def load(builder, pointer, kept_in_16_bits):
    """LANES numbers as float32."""
    if not kept_in_16_bits:
        return builder.load(builder.bitcast(pointer, VECTOR.as_pointer()), align=4)
    halves = builder.load(builder.bitcast(pointer, HALVES.as_pointer()), align=2)
    words = builder.shl(builder.zext(halves, WORDS), ir.Constant(WORDS, [16] * LANES))
    return builder.bitcast(words, VECTOR)


def spread(builder, value, kind=VECTOR):
    """One number in all lanes."""
    empty = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(empty, value, ir.IntType(32)(0))
    return builder.shuffle_vector(first, empty, ir.Constant(WORDS, [0] * LANES))


def multiply_add(builder, a, b, c):
    """a * b + c, rounded once where the machine can."""
    kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32"), [a, b, c])


def add_up_steps(builder, count, zero, number, add):
    """`number` sums from `zero` over `count` steps, of which there is at least one; `add(k, sums)` gives the next."""
    entry, body, done = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.branch(body)
    builder.position_at_end(body)
    k, sums = builder.phi(INDEX), [builder.phi(zero.type) for _ in range(number)]
    k.add_incoming(INDEX(0), entry)
    after = add(k, sums)
    following = builder.add(k, INDEX(1))
    k.add_incoming(following, body)
    for own, later in zip(sums, after, strict=True):
        own.add_incoming(zero, entry)
        own.add_incoming(later, body)
    builder.cbranch(builder.icmp_signed("<", following, count), body, done)
    builder.position_at_end(done)
    return after


def fold(builder, vector):
    """The sum of all lanes: halves are added until one is left."""
    width = LANES
    while width > 1:
        width //= 2
        kind = ir.VectorType(ir.IntType(32), width)
        low, high = (
            builder.shuffle_vector(vector, vector, ir.Constant(kind, [*range(first, first + width)]))
            for first in (0, width)
        )
        vector = builder.fadd(low, high)
    return builder.extract_element(vector, ir.IntType(32)(0))
