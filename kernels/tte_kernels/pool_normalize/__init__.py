"""pool_normalize: from hidden states to finished vectors, in one launch.

    last:  h[s] = hidden[cu_seqlens[s+1] - 1], or hidden[rows[s]]
           n[s] = h * rsqrt(mean(h^2) + eps) * norm_weight            (h itself without norm_weight)
    mean:  n[s] = mean over the rows r of sequence s of the n of row r
    e[s] = n[s, :dims[s]]                                      Matryoshka cut (arXiv:2205.13147), then zeros
    out[s] = e / max(||e||_2, 1e-12)                           e itself where normalize is false

Everything in fp32 and nothing rounded before the fp32 output. An all-zero row stays zero. A sequence's vector
never depends on other sequences. This file is the door; it does not know which rows an engine wants, nor why.
"""

from __future__ import annotations

from typing import Any

import torch

from tte_kernels._check import (
    FLOAT_DTYPES,
    check_choice,
    check_int,
    check_positive,
    check_tensor,
    check_values,
    describe,
    on_host,
)
from tte_kernels._launch import launcher
from tte_kernels.errors import KernelInputError, KernelTypeError

__all__ = ["launch", "pool_normalize"]

MAX_DIM = 16384
MODES = ("last", "mean")


def pool_normalize(
    hidden: torch.Tensor,
    cu_seqlens: torch.Tensor | None = None,
    *,
    rows: torch.Tensor | None = None,
    norm_weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    dim: int | None = None,
    dims: torch.Tensor | None = None,
    mode: str = "last",
    normalize: bool | torch.Tensor = True,
) -> torch.Tensor:
    """One vector a sequence (or a named row) of hidden states.

    Args:
        hidden: [T, C] float32, float16 or bfloat16, before the final norm; rows may be strided. C <= 16384.
        cu_seqlens: [S+1] int32, non-decreasing, the bounds of each sequence in `hidden`. An empty sequence is
            refused where the bounds are on the CPU, and gives zeros where they are on a GPU (reading them
            would wait for it).
        rows: [S] int64, row of `hidden` for each vector; a negative row (padding) gives zeros. Instead of
            cu_seqlens.
        norm_weight: [C], dtype of hidden: the final RMSNorm; None where hidden is already normed.
        eps: of that norm; > 0.
        dim: E, the width of the result, 1..C; None takes C.
        dims: [S] int32, the number of leading elements kept of each vector, for batches in which they differ;
            the others are zeros, and no part of the length. Values past E count as E. None keeps E of all.
        mode: "last" or "mean"; "mean" needs cu_seqlens.
        normalize: divide by the L2 norm; a bool for all vectors, or a [S] bool tensor.

    Returns:
        [S, E] float32, contiguous.

    Raises:
        KernelTypeError: a wrong dtype or type.
        KernelInputError: a wrong shape, stride, device, dim, mode or eps; both or neither of cu_seqlens and
            rows; bounds, rows or dims outside their range where they are on the CPU.
        KernelBackendError: nothing can run it here.
    """
    op = "pool_normalize"
    check_tensor(op, "hidden", hidden, ("T", "C"), FLOAT_DTYPES)
    width = check_int(op, "C of hidden", hidden.shape[1], 1, MAX_DIM)
    check_choice(op, "mode", mode, MODES)
    if (cu_seqlens is None) == (rows is None):
        given = "neither" if rows is None else "both"
        raise KernelInputError(f"{op}: exactly one of cu_seqlens and rows must be given, got {given}.")
    if cu_seqlens is not None:
        if isinstance(cu_seqlens, torch.Tensor) and cu_seqlens.dtype == torch.int64:
            raise KernelTypeError(
                f"{op}: cu_seqlens must have dtype torch.int32, got torch.int64. Row indices go in rows=."
            )
        check_tensor(op, "cu_seqlens", cu_seqlens, ("S+1",), (torch.int32,), hidden.device)
        check_int(op, "elements of cu_seqlens", cu_seqlens.shape[0], 1)
    else:
        assert rows is not None
        check_tensor(op, "rows", rows, ("S",), (torch.int64,), hidden.device)
        if mode != "last":
            raise KernelInputError(f"{op}: mode must be 'last' with rows, got {mode!r}. Pass cu_seqlens to average.")
    if norm_weight is not None:
        check_tensor(op, "norm_weight", norm_weight, (width,), (hidden.dtype,), hidden.device)
    eps = check_positive(op, "eps", eps)
    kept = width if dim is None else check_int(op, "dim", dim, 1, width)
    num_vectors = _num_vectors(cu_seqlens, rows)
    if dims is not None:
        check_tensor(op, "dims", dims, (num_vectors,), (torch.int32,), hidden.device)
    flags = None
    if not isinstance(normalize, bool | torch.Tensor):
        raise KernelTypeError(f"{op}: normalize must be True, False or a torch.Tensor, got {describe(normalize)}.")
    if not isinstance(normalize, bool):
        check_tensor(op, "normalize", normalize, (num_vectors,), (torch.bool,), hidden.device)
        normalize, flags = True, normalize
    return torch.ops.tte.pool_normalize(hidden, cu_seqlens, rows, norm_weight, eps, kept, dims, mode, normalize, flags)


def _num_vectors(cu_seqlens: torch.Tensor | None, rows: torch.Tensor | None) -> int:
    if rows is not None:
        return rows.shape[0]
    assert cu_seqlens is not None
    return cu_seqlens.shape[0] - 1


def _check_values(
    hidden: torch.Tensor, cu_seqlens: torch.Tensor | None, rows: torch.Tensor | None, dims: torch.Tensor | None
) -> None:
    """Checks bounds, rows and dims, which are on the host, so that reading them costs nothing."""
    op, num_tokens = "pool_normalize", hidden.shape[0]
    if dims is not None:
        check_values(op, "dims", dims, dims > 0, "> 0")
    if rows is not None:
        check_values(op, "rows", rows, rows < num_tokens, f"below T = {num_tokens}")
    if cu_seqlens is not None:
        inside = (cu_seqlens >= 0) & (cu_seqlens <= num_tokens)
        check_values(op, "cu_seqlens", cu_seqlens, inside, f"within 0..T = {num_tokens}")
        lengths = cu_seqlens.diff()
        check_values(op, "tokens of a sequence", lengths, lengths > 0, "at least 1")


@torch.library.custom_op("tte::pool_normalize", mutates_args=())
def _pool_normalize(
    hidden: torch.Tensor,
    cu_seqlens: torch.Tensor | None,
    rows: torch.Tensor | None,
    norm_weight: torch.Tensor | None,
    eps: float,
    dim: int,
    dims: torch.Tensor | None,
    mode: str,
    normalize: bool,
    flags: torch.Tensor | None,
) -> torch.Tensor:
    if on_host(hidden):
        _check_values(hidden, cu_seqlens, rows, dims)
    return launcher("pool_normalize")(
        hidden,
        cu_seqlens,
        rows=rows,
        norm_weight=norm_weight,
        eps=eps,
        dim=dim,
        dims=dims,
        mode=mode,
        normalize=normalize if flags is None else flags,
    )


@_pool_normalize.register_fake
def _(
    hidden: torch.Tensor,
    cu_seqlens: torch.Tensor | None,
    rows: torch.Tensor | None,
    norm_weight: torch.Tensor | None,
    eps: float,
    dim: int,
    dims: torch.Tensor | None,
    mode: str,
    normalize: bool,
    flags: torch.Tensor | None,
) -> torch.Tensor:
    return hidden.new_empty((_num_vectors(cu_seqlens, rows), dim), dtype=torch.float32)


def __getattr__(name: str) -> Any:
    """`launch` is the kernel's launcher: no checks, no dispatcher. Fetched lazily, as it imports Triton."""
    if name == "launch":
        return launcher("pool_normalize")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
