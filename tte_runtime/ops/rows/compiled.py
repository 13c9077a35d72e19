"""What a CPU compiles for rows of one token: all layers of a decoder in one call, and the scores of next tokens.

Numba's language and plain loops, which LLVM turns into the widest vectors of the machine. Weights are read in the order
in which they lie, once for all rows; arithmetic is float32, whatever the weights and pages are kept in. No loop holds
Python's lock, and a team of threads can share one call (`me` of `team`). All of it stands in one file, because Numba's
cache on disk knows a function by its own file. Knows arrays; knows no tensor, layout or option.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

PAGE = 16
SPINS = 20_000  # looks at a barrier before the core is offered to others

# Sums may be split over vector lanes; nothing else is relaxed: NaN and infinity keep their meaning.
FAST = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
STRICT = {"nogil": True, "error_model": "numpy"}

_sched_yield = types.ExternalFunction("sched_yield", types.int32())


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
def _meet(counter, team, target):
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
def _share(total, me, team):
    """The part of 0 to `total` that is this thread's."""
    return total * me // team, total * (me + 1) // team


@njit(**STRICT)
def _exp(x):
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
def _dot(a, b):
    total = np.float32(0)
    for i in range(b.shape[0]):
        total += widen(a[i]) * b[i]
    return total


@njit(**FAST)
def _dot_of_4(a, b0, b1, b2, b3):
    t0, t1, t2, t3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for i in range(a.shape[0]):
        value = a[i]
        t0 += value * b0[i]
        t1 += value * b1[i]
        t2 += value * b2[i]
        t3 += value * b3[i]
    return t0, t1, t2, t3


@njit(**FAST)
def _add_product(out, x, matrices, base, first, last):
    """out[:, first:last] += x times rows `first` to `last` of the matrix [O, n] that begins at `base`."""
    rows, n = x.shape
    wide = np.empty(n, np.float32)
    for o in range(first, last):
        weights = matrices[base + o * n : base + (o + 1) * n]
        if rows == 1:
            out[0, o] += _dot(weights, x[0])
            continue
        for i in range(n):
            wide[i] = widen(weights[i])
        row = 0
        while row + 4 <= rows:
            t0, t1, t2, t3 = _dot_of_4(wide, x[row], x[row + 1], x[row + 2], x[row + 3])
            out[row, o] += t0
            out[row + 1, o] += t1
            out[row + 2, o] += t2
            out[row + 3, o] += t3
            row += 4
        for r in range(row, rows):
            out[r, o] += _dot(wide, x[r])


@njit(**FAST)
def _norm(x, weight, eps, out):
    """RMSNorm of one row."""
    scale = np.float32(1.0) / np.sqrt(_dot(x, x) / np.float32(x.shape[0]) + np.float32(eps))
    for i in range(x.shape[0]):
        out[i] = x[i] * scale * weight[i]


@njit(**FAST)
def _rotate(head, cos, sin):
    half = cos.shape[0]
    for i in range(half):
        a, b = head[i], head[half + i]
        head[i] = a * cos[i] - b * sin[i]
        head[half + i] = b * cos[i] + a * sin[i]


@njit(**FAST)
def _attend(q, keys, values, table, length, kv_head, scores, out):
    """Attention of one scaled query over the first `length` tokens of its pages; what lies behind is never read."""
    top = np.float32(-np.inf)
    for t in range(length):
        score = _dot(keys[table[t // PAGE], kv_head, t % PAGE], q)
        scores[t] = score
        top = max(top, score)
    total = np.float32(0)
    for t in range(length):
        scores[t] = _exp(scores[t] - top)
        total += scores[t]
    out[:] = 0
    for t in range(length):
        share, value = scores[t] / total, values[table[t // PAGE], kv_head, t % PAGE]
        for d in range(out.shape[0]):
            out[d] += share * widen(value[d])


@njit(**FAST)
def _normed(hidden, weight, eps, out):
    for row in range(hidden.shape[0]):
        _norm(hidden[row], weight, eps, out[row])


@njit(**FAST)
def _place(qkv, angles, slots, pages, norms, eps, scale, first, last):
    """Heads `first` to `last` of q, then of k, of every row: QK-norm, rotation; q is scaled, k, v go to their slots."""
    kv_heads, dim = pages.shape[2], pages.shape[4]
    heads = qkv.shape[1] // dim - 2 * kv_heads
    for row in range(qkv.shape[0]):
        page, offset = slots[row] // PAGE, slots[row] % PAGE
        for index in range(first, last):
            head = qkv[row, index * dim : (index + 1) * dim]
            if norms.shape[0]:
                own = norms[:dim] if index < heads else norms[dim:]
                _norm(head, own, eps, head)
            _rotate(head, angles[0, row], angles[1, row])
            if index < heads:
                for d in range(dim):
                    head[d] *= scale
                continue
            kv_head = index - heads
            value = qkv[row, (index + kv_heads) * dim : (index + kv_heads + 1) * dim]
            key_slot, value_slot = pages[0, page, kv_head, offset], pages[1, page, kv_head, offset]
            for d in range(dim):
                key_slot[d] = narrow(head[d], key_slot[d])
                value_slot[d] = narrow(value[d], value_slot[d])


@njit(**FAST)
def _gate(both, first, last, out):
    """silu(gate) * up of columns `first` to `last`; gates and ups lie side by side, [R, 2F]."""
    inner = out.shape[1]
    for row in range(out.shape[0]):
        gates, ups, active = both[row, :inner], both[row, inner:], out[row]
        for i in range(first, last):
            active[i] = gates[i] / (np.float32(1.0) + _exp(-gates[i])) * ups[i]


@njit(cache=True, **FAST)
def run_layers(
    hidden, positions, inv_freq, factor, slots, table, lengths, pages, taps, tap_layer, depth, matrices, vectors,
    sizes, eps, shared, counter, me, team,
):  # fmt: skip
    """Layers 0 to `depth` over R rows: hidden [R, C] becomes the states behind them, pages and taps are written.

    Args:
        positions: [R]. inv_freq: [D/2], radians a position; factor: of cos and sin. slots: [R], page * 16 + offset.
        table: [R, P], pages in order. lengths: [R], tokens seen.
        pages: [L, 2, N, K, 16, D]. taps: [N * 16, C], the states before layer `tap_layer`; -1 for none.
        matrices, vectors: of all layers, as `packing` lays them. sizes: (H, F, 1 where q and k have norms).
        shared: float32 [R * (2 (H + K) D + 3F)], seen by all threads. counter: int64 [1], 0.
    """
    rows, width = hidden.shape
    kv_heads, dim = pages.shape[3], pages.shape[5]
    heads, inner, has_norms = sizes
    outer, mix = (heads + 2 * kv_heads) * dim, heads * dim
    qkv = shared[: rows * outer].reshape(rows, outer)
    mixed = shared[rows * outer : rows * (outer + mix)].reshape(rows, mix)
    both = shared[rows * (outer + mix) : rows * (outer + mix + 2 * inner)].reshape(rows, 2 * inner)
    active = shared[rows * (outer + mix + 2 * inner) :].reshape(rows, inner)
    normed, scores = np.empty((rows, width), np.float32), np.empty(lengths.max(), np.float32)
    angles = np.empty((2, rows, dim // 2), np.float32)
    for row in range(rows):
        for i in range(dim // 2):
            angle = np.float32(positions[row]) * inv_freq[i]
            angles[0, row, i], angles[1, row, i] = np.cos(angle) * factor, np.sin(angle) * factor
    scale = np.float32(1.0) / np.sqrt(np.float32(dim))
    q_first, q_last = _share(outer, me, team)
    c_first, c_last = _share(width, me, team)
    f_first, f_last = _share(inner, me, team)
    turn_first, turn_last = _share(heads + kv_heads, me, team)
    head_first, head_last = _share(rows * heads, me, team)
    m, v, met = 0, 0, 0
    for layer in range(depth + 1):
        if layer == tap_layer and me == 0:
            for row in range(rows):
                for i in range(width):
                    taps[slots[row], i] = narrow(hidden[row, i], taps[slots[row], i])
        if layer == depth:
            break
        kept = pages[layer]
        _normed(hidden, vectors[v : v + width], eps, normed)
        v += width
        for row in range(rows):
            qkv[row, q_first:q_last] = vectors[v + q_first : v + q_last]
        v += outer
        _add_product(qkv, normed, matrices, m, q_first, q_last)
        m += outer * width
        met = _meet(counter, team, met)
        norms = vectors[v : v + 2 * dim * has_norms]
        v += norms.shape[0]
        _place(qkv, angles, slots, kept, norms, eps, scale, turn_first, turn_last)
        met = _meet(counter, team, met)
        for item in range(head_first, head_last):
            row, head = item // heads, item % heads
            part = slice(head * dim, (head + 1) * dim)
            kv_head = head * kv_heads // heads
            _attend(qkv[row, part], kept[0], kept[1], table[row], lengths[row], kv_head, scores, mixed[row, part])
        met = _meet(counter, team, met)
        _add_product(hidden, mixed, matrices, m, c_first, c_last)
        m += width * mix
        met = _meet(counter, team, met)
        _normed(hidden, vectors[v : v + width], eps, normed)
        v += width
        both[:, f_first:f_last] = 0
        both[:, inner + f_first : inner + f_last] = 0
        _add_product(both, normed, matrices, m, f_first, f_last)
        _add_product(both, normed, matrices, m, inner + f_first, inner + f_last)
        m += 2 * inner * width
        _gate(both, f_first, f_last, active)
        met = _meet(counter, team, met)
        _add_product(hidden, active, matrices, m, c_first, c_last)
        m += width * inner
        met = _meet(counter, team, met)


@njit(cache=True, **FAST)
def score_tokens(hidden, norm, eps, matrix, scores, first, last):
    """Scores of tokens `first` to `last` after the final norm: hidden [S, C], matrix [V * C], scores [S, V]."""
    normed = np.empty(hidden.shape, np.float32)
    _normed(hidden, norm, eps, normed)
    scores[:, first:last] = 0
    _add_product(scores, normed, matrix, 0, first, last)


@njit(cache=True, **STRICT)
def likeliest(scores, tokens):
    """The highest score of each row, of equal ones the first; a NaN counts as the highest."""
    for row in range(scores.shape[0]):
        own, best = scores[row], 0
        for token in range(1, own.shape[0]):
            if own[token] > own[best] or (own[token] != own[token] and own[best] == own[best]):
                best = token
        tokens[row] = best
