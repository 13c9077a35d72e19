"""rope_write_kv: QK-norm, rotary embedding of q and k, and the write of k and v into pages, in one launch.

    head = qkv[t, h*D:(h+1)*D]                                heads: H of q, then K of k, then K of v
    head = head * rsqrt(mean(head^2) + eps) * norm_weight     q and k, only with q_norm and k_norm (Qwen3)
    out[:D/2] = head[:D/2] * cos - head[D/2:] * sin           q and k: rotate-half rotary (arXiv:2104.09864)
    out[D/2:] = head[D/2:] * cos + head[:D/2] * sin

All of it in fp32, rounded once to the dtype of qkv. M-RoPE needs nothing here: it is already in cos and sin.
k and v of token t go to slot slots[t] = page * 16 + offset. A token never depends on other tokens. This file
is the door; it does not know the kernel's tiles, nor who chose the slots.
"""

from __future__ import annotations

from typing import Any

import torch

from tte_kernels._check import (
    FLOAT_DTYPES,
    check_int,
    check_pages,
    check_positive,
    check_tensor,
    check_values,
    describe,
    on_host,
)
from tte_kernels._launch import launcher
from tte_kernels.errors import KernelInputError

__all__ = ["launch", "rope_write_kv"]


def rope_write_kv(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    kv_pages: torch.Tensor,
    slots: torch.Tensor,
    *,
    num_heads: int,
    q_norm: torch.Tensor | None = None,
    k_norm: torch.Tensor | None = None,
    eps: float = 1e-6,
) -> torch.Tensor:
    """Rotated queries; writes rotated keys and plain values into `kv_pages`.

    Args:
        qkv: [T, (H + 2K) * D] float32, float16 or bfloat16; rows may be strided.
        cos, sin: [T, D/2] float32; rows may be strided.
        kv_pages: [2, N, K, 16, D], dtype of qkv, written: index 0 keys, 1 values. N > 0; D is 32, 64 or
            128.
        slots: [T] int64, each in 0..N*16-1 (checked where all tensors are on the CPU; reading them would wait for a
            GPU). Several tokens may share a slot of the scratch page 0; which of them stays there is undefined.
        num_heads: H.
        q_norm, k_norm: [D], dtype of qkv; both or neither.
        eps: of the QK-norm; > 0.

    Returns:
        q [T, H, D], dtype of qkv, contiguous.

    Raises:
        KernelTypeError: a wrong dtype or type.
        KernelInputError: a wrong shape, stride, device, head dim, eps or slot, or one norm without the other.
        KernelBackendError: nothing can run it here.
    """
    check_tensor("rope_write_kv", "qkv", qkv, ("T", "(H+2K)*D"), FLOAT_DTYPES)
    num_kv_heads, head_dim = check_pages("rope_write_kv", kv_pages, qkv.dtype, qkv.device)
    num_heads = check_int("rope_write_kv", "num_heads", num_heads, 1)
    num_tokens, width = qkv.shape[0], (num_heads + 2 * num_kv_heads) * head_dim
    check_tensor("rope_write_kv", "qkv", qkv, ("T", width), FLOAT_DTYPES)
    for name, table in (("cos", cos), ("sin", sin)):
        check_tensor("rope_write_kv", name, table, (num_tokens, head_dim // 2), (torch.float32,), qkv.device)
    check_tensor("rope_write_kv", "slots", slots, (num_tokens,), (torch.int64,), qkv.device)
    if (q_norm is None) != (k_norm is None):
        raise KernelInputError(
            "rope_write_kv: q_norm and k_norm must both be given or both be None, got"
            f" {describe(q_norm)} and {describe(k_norm)}."
        )
    for name, weight in (("q_norm", q_norm), ("k_norm", k_norm)):
        if weight is not None:
            check_tensor("rope_write_kv", name, weight, (head_dim,), (qkv.dtype,), qkv.device)
    eps = check_positive("rope_write_kv", "eps", eps)
    q: torch.Tensor = torch.ops.tte.rope_write_kv(qkv, cos, sin, kv_pages, slots, num_heads, q_norm, k_norm, eps)
    return q


@torch.library.custom_op("tte::rope_write_kv", mutates_args=("kv_pages",))
def _rope_write_kv(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    kv_pages: torch.Tensor,
    slots: torch.Tensor,
    num_heads: int,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    if on_host(kv_pages, slots):
        most = kv_pages.shape[1] * kv_pages.shape[3] - 1
        check_values("rope_write_kv", "slots", slots, (slots >= 0) & (slots <= most), f"in 0..N*16-1 = {most}")
    return launcher("rope_write_kv")(
        qkv, cos, sin, kv_pages, slots, num_heads=num_heads, q_norm=q_norm, k_norm=k_norm, eps=eps
    )


@_rope_write_kv.register_fake
def _(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    kv_pages: torch.Tensor,
    slots: torch.Tensor,
    num_heads: int,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    return qkv.new_empty((qkv.shape[0], num_heads, kv_pages.shape[4]))


def __getattr__(name: str) -> Any:
    """`launch` is the kernel's launcher: no checks, no dispatcher. Fetched lazily, as it imports Triton."""
    if name == "launch":
        return launcher("rope_write_kv")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
