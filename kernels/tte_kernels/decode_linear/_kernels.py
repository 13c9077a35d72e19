"""Triton code of decode_linear: one kernel for 16- and 8-bit weights, one for 4-bit weights.

A program takes BLOCK_O rows of the weight (gate and up rows with SWIGLU) and ROWS rows of x. Every tile of k
is cut into SLICES parts, each with a partial sum of its own (a batched product, one slice a warp):
independent chains for the tensor cores, and shared memory is read once. Sums are written out wherever
Triton's own reduction would follow the layout, which differs with the number of rows. Does not know how tiles
are chosen.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["decode_linear_4bit_kernel", "decode_linear_kernel"]


@triton.jit
def fold_last(b_sum, OUTER: tl.constexpr, WIDTH: tl.constexpr):
    """[OUTER, WIDTH] -> [OUTER]: neighbours are added until one is left (WIDTH is a power of two)."""
    LEVELS: tl.constexpr = WIDTH.bit_length() - 1
    for level in tl.static_range(LEVELS):
        b_even, b_odd = tl.split(tl.reshape(b_sum, [OUTER, WIDTH >> (level + 1), 2]))
        b_sum = b_even + b_odd
    return tl.reshape(b_sum, [OUTER])


@triton.jit
def add_slices(b_parts, SLICES: tl.constexpr, ROWS: tl.constexpr, BLOCK_O: tl.constexpr):
    """[SLICES, ROWS, BLOCK_O] -> [ROWS, BLOCK_O], in the order of fold_last."""
    b_flat = tl.reshape(tl.permute(b_parts, (1, 2, 0)), [ROWS * BLOCK_O, SLICES])
    return tl.reshape(fold_last(b_flat, ROWS * BLOCK_O, SLICES), [ROWS, BLOCK_O])


@triton.jit
def reciprocal_rms(b_squares, in_features, eps, SLICES: tl.constexpr, ROWS: tl.constexpr, BLOCK_I: tl.constexpr):
    """[SLICES, ROWS, BLOCK_I] sums of squares -> rsqrt(mean + eps), [ROWS]."""
    b_flat = tl.reshape(tl.permute(b_squares, (1, 0, 2)), [ROWS, SLICES * BLOCK_I])
    return tl.rsqrt(fold_last(b_flat, ROWS, SLICES * BLOCK_I) / in_features + eps)


@triton.jit
def wait_after_prefetch(p_weight, in_bytes, m_o, LINES: tl.constexpr):
    """Programmatic dependent launch: asks for the first 128-byte lines of the weight rows, then waits.

    The weight does not come from the kernel before, so it may start towards L2 while that one still runs. A
    prefetch instruction and not a load, as nothing may be moved across the wait (triton#11905). p_weight:
    [BLOCK_O] rows.
    """
    o_line = tl.arange(0, LINES) * 128
    p_line = tl.where(
        m_o[:, None] & (o_line < in_bytes)[None, :], p_weight[:, None] + o_line[None, :], p_weight[:, None]
    )
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [p_line], dtype=tl.int32, is_pure=False, pack=1
    )
    tl.extra.cuda.gdc_wait()
    tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def finish(
    b_y,  # [ROWS, BLOCK_O] fp32
    b_up,  # the same for up; not read without SWIGLU
    bias_ptr,
    residual_ptr,
    y_ptr,
    o_s,
    o_o,
    m_s,
    m_o,
    columns,  # of y
    stride_rs,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    SWIGLU: tl.constexpr,
):
    """Bias, SwiGLU, residual, the one rounding, and the store."""
    if HAS_BIAS:
        b_y += tl.load(bias_ptr + o_o, mask=m_o, other=0.0).to(tl.float32)[None, :]
    if SWIGLU:
        if HAS_BIAS:
            b_up += tl.load(bias_ptr + columns + o_o, mask=m_o, other=0.0).to(tl.float32)[None, :]
        b_y = b_y * tl.sigmoid(b_y) * b_up
    m_y = m_s[:, None] & m_o[None, :]
    if HAS_RESIDUAL:
        p_r = residual_ptr + o_s[:, None] * stride_rs + o_o[None, :]
        b_y += tl.load(p_r, mask=m_y, other=0.0).to(tl.float32)
    tl.store(y_ptr + o_s[:, None] * columns + o_o[None, :], b_y.to(y_ptr.dtype.element_ty), mask=m_y)


# Not specialised on the number of rows: 1 and multiples of 16 would each be compiled anew, within somebody's
# request.
@triton.jit(do_not_specialize=["num_rows"])
def decode_linear_kernel(
    x_ptr,  # [S, I]
    data_ptr,  # [O, I], dtype of x or int8
    scale_ptr,  # [O] fp32 with INT8
    zero_ptr,  # never read: both kernels take the same arguments
    norm_ptr,  # [I]
    bias_ptr,  # [O]
    residual_ptr,  # [S, columns]
    y_ptr,  # [S, columns]
    num_rows,
    columns,  # O, or O / 2 with SWIGLU
    in_features,
    eps,
    stride_xs,
    stride_wo,
    stride_rs,
    HAS_NORM: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    SWIGLU: tl.constexpr,
    INT8: tl.constexpr,
    EVEN_I: tl.constexpr,
    SLICES: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
    PDL: tl.constexpr,
):
    dtype = x_ptr.dtype.element_ty
    i_o = tl.program_id(1).to(tl.int64)
    o_s = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    o_o = i_o * BLOCK_O + tl.arange(0, BLOCK_O)
    m_s = o_s < num_rows
    m_o = o_o < columns
    o_i = tl.arange(0, SLICES)[:, None] * BLOCK_I + tl.arange(0, BLOCK_I)[None, :]  # [SLICES, BLOCK_I]
    p_x = x_ptr + (o_s * stride_xs)[None, :, None] + o_i[:, None, :]  # [SLICES, ROWS, BLOCK_I]
    p_w = data_ptr + (o_o * stride_wo)[None, :, None] + o_i[:, None, :]  # [SLICES, BLOCK_O, BLOCK_I]
    up = tl.cast(columns, tl.int64) * stride_wo
    if PDL:
        itemsize: tl.constexpr = data_ptr.dtype.element_ty.primitive_bitwidth // 8
        p_row = data_ptr.to(tl.int64) + tl.minimum(o_o, columns - 1) * stride_wo * itemsize
        wait_after_prefetch(p_row, in_features * itemsize, m_o, LINES=8)

    b_y = tl.zeros([SLICES, ROWS, BLOCK_O], dtype=tl.float32)
    b_up = tl.zeros([SLICES, ROWS, BLOCK_O], dtype=tl.float32)
    b_squares = tl.zeros([SLICES, ROWS, BLOCK_I], dtype=tl.float32)
    for start in range(0, in_features, SLICES * BLOCK_I):
        m_i = (o_i < in_features) if EVEN_I else (start + o_i < in_features)
        m_x = m_s[None, :, None] if EVEN_I else m_s[None, :, None] & m_i[:, None, :]
        m_w = m_o[None, :, None] if EVEN_I else m_o[None, :, None] & m_i[:, None, :]
        b_x = tl.load(p_x + start, mask=m_x, other=0.0)
        if HAS_NORM:
            b_norm = tl.load(norm_ptr + start + o_i, mask=m_i, other=0.0).to(tl.float32)
            b_wide = b_x.to(tl.float32)
            b_squares += b_wide * b_wide
            b_x = (b_wide * b_norm[:, None, :]).to(dtype)
        b_w = tl.load(p_w + start, mask=m_w, other=0).to(dtype)
        b_y = tl.dot(b_x, tl.permute(b_w, (0, 2, 1)), b_y, input_precision="ieee")
        if SWIGLU:
            b_w = tl.load(p_w + up + start, mask=m_w, other=0).to(dtype)
            b_up = tl.dot(b_x, tl.permute(b_w, (0, 2, 1)), b_up, input_precision="ieee")

    b_out = add_slices(b_y, SLICES, ROWS, BLOCK_O)
    b_gated = add_slices(b_up, SLICES, ROWS, BLOCK_O) if SWIGLU else b_out
    if INT8:
        b_out *= tl.load(scale_ptr + o_o, mask=m_o, other=0.0)[None, :]
        if SWIGLU:
            b_gated *= tl.load(scale_ptr + columns + o_o, mask=m_o, other=0.0)[None, :]
    if HAS_NORM:
        b_rms = reciprocal_rms(b_squares, in_features, eps, SLICES, ROWS, BLOCK_I)[:, None]
        b_out *= b_rms
        b_gated = b_gated * b_rms if SWIGLU else b_out
    finish(
        b_out,
        b_gated,
        bias_ptr,
        residual_ptr,
        y_ptr,
        o_s,
        o_o,
        m_s,
        m_o,
        columns,
        stride_rs,
        HAS_BIAS,
        HAS_RESIDUAL,
        SWIGLU,
    )


@triton.jit
def dot_nibbles(b_x, b_bytes, p_scale, p_zero, m_g, HIGH: tl.constexpr):
    """x [SLICES, ROWS, BLOCK_B] times the low or high nibbles of [SLICES, BLOCK_O, BLOCK_B], scaled by group.

    Codes less their zero are integers in -15..15, exact in every dtype; the scale is applied to the fp32 sum.
    """
    b_codes = ((b_bytes >> 4) & 15) if HIGH else (b_bytes & 15)
    b_codes -= tl.load(p_zero, mask=m_g, other=0)[:, :, None]
    b_scale = tl.load(p_scale, mask=m_g, other=0.0).to(tl.float32)
    b_part = tl.dot(b_x, tl.permute(b_codes.to(b_x.dtype), (0, 2, 1)), input_precision="ieee")
    return b_part * b_scale[:, None, :]


@triton.jit(do_not_specialize=["num_rows"])
def decode_linear_4bit_kernel(
    x_ptr,  # [S, I]
    data_ptr,  # [O, blocks * 128] int8
    scale_ptr,  # [blocks * 2, O] fp16
    zero_ptr,  # [blocks * 2, O] int8
    norm_ptr,  # [I]
    bias_ptr,  # [O]
    residual_ptr,  # [S, columns]
    y_ptr,  # [S, columns]
    num_rows,
    columns,  # O, or O / 2 with SWIGLU
    in_features,
    eps,
    stride_xs,
    stride_wo,
    stride_rs,
    HAS_NORM: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    SWIGLU: tl.constexpr,
    SLICES: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_B: tl.constexpr,  # bytes a slice: that many weights of one group, and as many of the next
    PDL: tl.constexpr,
):
    dtype = x_ptr.dtype.element_ty
    i_o = tl.program_id(1).to(tl.int64)
    o_s = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    o_o = i_o * BLOCK_O + tl.arange(0, BLOCK_O)
    m_s = o_s < num_rows
    m_o = o_o < columns
    row_bytes = tl.cdiv(in_features, 256) * 128
    out_features = columns * 2 if SWIGLU else columns
    o_slice = tl.arange(0, SLICES) * BLOCK_B  # first byte of each slice in a tile, [SLICES]
    o_b = o_slice[:, None] + tl.arange(0, BLOCK_B)[None, :]  # [SLICES, BLOCK_B]
    p_x = x_ptr + (o_s * stride_xs)[None, :, None]
    p_w = data_ptr + (o_o * stride_wo)[None, :, None] + o_b[:, None, :]
    up = tl.cast(columns, tl.int64) * stride_wo
    if PDL:
        p_row = data_ptr.to(tl.int64) + tl.minimum(o_o, columns - 1) * stride_wo
        wait_after_prefetch(p_row, row_bytes, m_o, LINES=4)

    b_y = tl.zeros([SLICES, ROWS, BLOCK_O], dtype=tl.float32)
    b_up = tl.zeros([SLICES, ROWS, BLOCK_O], dtype=tl.float32)
    b_squares = tl.zeros([SLICES, ROWS, BLOCK_B], dtype=tl.float32)
    for start in range(0, row_bytes, SLICES * BLOCK_B):
        m_b = start + o_b < row_bytes
        m_w = m_o[None, :, None] & m_b[:, None, :]
        b_gate_bytes = tl.load(p_w + start, mask=m_w, other=0)
        b_up_bytes = tl.load(p_w + up + start, mask=m_w, other=0) if SWIGLU else b_gate_bytes
        m_g = (start + o_slice < row_bytes)[:, None] & m_o[None, :]
        for HIGH in tl.static_range(2):
            # A block is 128 bytes: the low nibbles are its first group of 128 weights, the high ones its
            # second.
            o_k = (start + o_b) // 128 * 256 + (start + o_b) % 128 + HIGH * 128
            m_k = o_k < in_features
            b_x = tl.load(p_x + o_k[:, None, :], mask=m_s[None, :, None] & m_k[:, None, :], other=0.0)
            if HAS_NORM:
                b_norm = tl.load(norm_ptr + o_k, mask=m_k, other=0.0).to(tl.float32)
                b_wide = b_x.to(tl.float32)
                b_squares += b_wide * b_wide
                b_x = (b_wide * b_norm[:, None, :]).to(dtype)
            i_group = ((start + o_slice) // 128 * 2 + HIGH).to(tl.int64)
            o_group = i_group[:, None] * out_features + o_o[None, :]
            b_y += dot_nibbles(b_x, b_gate_bytes, scale_ptr + o_group, zero_ptr + o_group, m_g, HIGH)
            if SWIGLU:
                o_group += columns
                b_up += dot_nibbles(b_x, b_up_bytes, scale_ptr + o_group, zero_ptr + o_group, m_g, HIGH)

    b_out = add_slices(b_y, SLICES, ROWS, BLOCK_O)
    b_gated = add_slices(b_up, SLICES, ROWS, BLOCK_O) if SWIGLU else b_out
    if HAS_NORM:
        b_rms = reciprocal_rms(b_squares, in_features, eps, SLICES, ROWS, BLOCK_B)[:, None]
        b_out *= b_rms
        b_gated = b_gated * b_rms if SWIGLU else b_out
    finish(
        b_out,
        b_gated,
        bias_ptr,
        residual_ptr,
        y_ptr,
        o_s,
        o_o,
        m_s,
        m_o,
        columns,
        stride_rs,
        HAS_BIAS,
        HAS_RESIDUAL,
        SWIGLU,
    )
