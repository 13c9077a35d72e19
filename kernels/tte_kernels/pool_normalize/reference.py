"""Specification of pool_normalize in torch. Knows nothing of Triton, tiles or devices."""

from __future__ import annotations

from itertools import pairwise

import torch

__all__ = ["pool_normalize"]


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
    """[S, E] fp32 of hidden [T, C]. Negative rows and empty sequences give zeros."""
    if rows is not None:
        index = [[int(row)] if row >= 0 else [] for row in rows]
    else:
        assert cu_seqlens is not None
        spans = [range(int(a), int(b)) for a, b in pairwise(cu_seqlens)]
        index = [list(span if mode == "mean" else span[-1:]) for span in spans]
    pooled = hidden.new_zeros((len(index), hidden.shape[1]), dtype=torch.float32)
    for i, wanted in enumerate(index):
        states = hidden[wanted].float()
        if norm_weight is not None:
            states = states * torch.rsqrt(states.square().mean(-1, keepdim=True) + eps) * norm_weight.float()
        pooled[i] = states.sum(0) / max(len(wanted), 1)
    pooled = pooled[:, :dim].contiguous()
    if dims is not None:
        pooled = pooled * (torch.arange(pooled.shape[1], device=pooled.device) < dims[:, None])
    if normalize is False:
        return pooled
    finished = torch.nn.functional.normalize(pooled, dim=-1, eps=1e-12)
    return finished if normalize is True else torch.where(normalize[:, None], finished, pooled)
