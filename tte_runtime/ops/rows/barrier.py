"""How the threads of one compiled call divide it and wait for one another. Knows nothing of what they compute."""

from __future__ import annotations

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from tte_runtime.ops.rows.numbers import STRICT

SPINS = 20_000  # looks at a barrier before the core is offered to others

_sched_yield = types.ExternalFunction("sched_yield", types.int32())


@intrinsic
def _arrive(context, counter):
    """Add one to counter[0], seen by all threads."""

    def codegen(context, builder, signature, arguments):
        pointer = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        builder.atomic_rmw("add", pointer, ir.IntType(64)(1), "seq_cst")
        return context.get_dummy_value()

    return types.void(counter), codegen


@intrinsic
def _count(context, counter):
    """counter[0] as other threads have left it."""

    def codegen(context, builder, signature, arguments):
        pointer = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(counter), codegen


@njit(**STRICT)
def meet(counter, team, target):
    """Wait until everybody has arrived as often as this thread: returns the next target."""
    if team == 1:
        return target
    target += team
    _arrive(counter)
    spins = 0
    while _count(counter) < target:
        spins += 1
        if spins > SPINS:
            _sched_yield()
    return target


@njit(**STRICT)
def share(total, me, team):
    """The part of 0 to `total` that is this thread's."""
    return total * me // team, total * (me + 1) // team
