"""How the threads of one compiled call divide it and wait for one another. Knows nothing of what they compute.

Few rows are divided by columns: every thread has its share, and all meet. Many are divided into pieces, turn by turn:
a thread takes one that nobody has, so nobody waits for a thread that is still waking up, and one that comes late finds
less to do. `counters` are int64 zeros: one, and two a turn.
"""

from __future__ import annotations

from numba import njit, types
from numba.extending import intrinsic

from tte_runtime.ops.rows.numbers import STRICT
from tte_runtime.ops.rows.vectors import INDEX, start_of

SPINS = 20_000  # looks at a barrier before the core is offered to others

_sched_yield = types.ExternalFunction("sched_yield", types.int32())


@intrinsic
def _add_one(context, counters, index):
    """Add one to counters[index], seen by all threads; what was there before."""

    def codegen(context, builder, signature, arguments):
        return builder.atomic_rmw("add", start_of(context, builder, signature, arguments, 0), INDEX(1), "seq_cst")

    return types.int64(counters, types.int64), codegen


@intrinsic
def _count(context, counters, index):
    """counters[index] as other threads have left it."""

    def codegen(context, builder, signature, arguments):
        return builder.load_atomic(start_of(context, builder, signature, arguments, 0), "acquire", 8)

    return types.int64(counters, types.int64), codegen


@njit(**STRICT)
def _wait(counters, index, target):
    spins = 0
    while _count(counters, index) < target:
        spins += 1
        if spins > SPINS:
            _sched_yield()


@njit(**STRICT)
def meet(counters, team, target):
    """Wait until everybody has arrived as often as this thread: returns the next target."""
    if team == 1:
        return target
    target += team
    _add_one(counters, 0)
    _wait(counters, 0, target)
    return target


@njit(**STRICT)
def take(counters, turn, together, taken):
    """The next piece of a turn: one that nobody has, or, where a thread goes through all, that behind `taken`."""
    return _add_one(counters, 1 + 2 * turn) if together else taken + 1


@njit(**STRICT)
def finish(counters, turn, together):
    """A piece of a turn's work is done."""
    if together:
        _add_one(counters, 2 + 2 * turn)


@njit(**STRICT)
def settle(counters, turn, together, pieces):
    """Wait until all pieces of a turn are done; those that nobody has taken are done by whoever is there."""
    if together:
        _wait(counters, 2 + 2 * turn, pieces)


@njit(**STRICT)
def share(total, me, team):
    """The part of 0 to `total` that is this thread's."""
    return total * me // team, total * (me + 1) // team
