"""Every op in plain torch: what a CPU runs, and what the Triton backend is compared with.

The rounding order is that of transformers' Llama family. Knows tensors; knows no model, request or recipe.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from tte_kernels.sample.reference import mark_stops, sample_logits
from tte_runtime.ops.layout import Draw, Pooling, Rotation, StepLayout
from tte_runtime.ops.matrices import Kept, OneDnn, pack_matrix
from tte_runtime.ops.prefill import Prefill
from tte_runtime.ops.rows.packing import Layer
from tte_runtime.ops.rows.stack import RowRotation, RowShape, RowStack
from tte_runtime.ops.rows.tower import Block, RowBlock, RowTower, Tower
from tte_runtime.ops.torch_attention import decode_rows, extend_sequences, write_pages
from tte_runtime.ops.transfer import to_device


class TorchOps:
    """Every op in plain torch; the rounding order is that of transformers' Llama family.

    Args:
        weights: the weights' format, a resolved option of `EngineConfig`.
        prefill: attention of prompts by another library than this backend's own; see `ops/prefill.py`.
    """

    name = "torch"

    def __init__(self, weights: str = "w16", prefill: Prefill | None = None) -> None:
        self.weights = weights
        self.prefill = prefill

    def pack(self, weight: torch.Tensor) -> Any:
        """A matrix [O, I] in the form that this backend's linear ops take."""
        return pack_matrix(weight, self.weights)

    def pack_layer(self, weight: torch.Tensor) -> Any:
        """A matrix of a layer that will be handed to `fuse`."""
        return self.pack(weight)

    def pack_tower(self, weight: torch.Tensor) -> Kept | None:
        """A matrix [O, I] of a tower, whose weights keep their dtype in every format; `None` to leave it as it is."""
        return OneDnn(weight) if OneDnn.serves(weight) else None

    def pack_output(self, weight: torch.Tensor) -> Any:
        """The output embeddings [V, C] in the form that `next_tokens` takes."""
        return self.pack(weight)

    def fuse(
        self, layers: Sequence[Layer], shape: RowShape, rotation: RowRotation, *, decodes: bool
    ) -> RowStack | None:
        """All layers as one call, where the backend has that; `decodes` says whether it will be asked for rows of one
        token. Other arguments as for `RowStack`.
        """
        return None

    def fuse_block(self, block: Block) -> RowBlock | None:
        """A block of a vision tower as one call, where the backend has that."""
        return None

    def fuse_tower(self, tower: Tower) -> RowTower | None:
        """A whole vision tower as one call, where the backend has that."""
        return None

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """x / rms(x) in fp32, rounded to x's dtype, times `weight`. [T, C] -> [T, C]."""
        if x.shape[0] == 1 and x.dim() == 2 and x.device.type == "cpu":
            return _norm_row(x, weight, eps)
        return norm_rows(x, weight, eps)

    def norm_linear(
        self,
        hidden: torch.Tensor,
        norm: torch.Tensor,
        eps: float,
        weight: Any,
        bias: torch.Tensor | None,
        layout: StepLayout,
    ) -> torch.Tensor:
        """Linear of the normed states: [T, C], weight [O, C] -> [T, O]."""
        return weight.times(self.rms_norm(hidden, norm, eps), bias)

    def norm_swiglu(
        self, hidden: torch.Tensor, norm: torch.Tensor, eps: float, gate_up: Any, layout: StepLayout
    ) -> torch.Tensor:
        """silu(gate) * up of the normed states: [T, C], gate_up [2F, C] -> [T, F]."""
        gate, up = gate_up.times(self.rms_norm(hidden, norm, eps)).chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    def linear_residual(self, x: torch.Tensor, weight: Any, residual: torch.Tensor, layout: StepLayout) -> torch.Tensor:
        """residual + linear(x): [T, I], weight [O, I], residual [T, O] -> [T, O]."""
        return weight.times_plus(x, residual)

    def rope_write_kv(
        self,
        qkv: torch.Tensor,
        rotation: Rotation,
        pages: torch.Tensor,
        layout: StepLayout,
        *,
        num_heads: int,
        q_norm: torch.Tensor | None = None,
        k_norm: torch.Tensor | None = None,
        eps: float = 1e-6,
    ) -> torch.Tensor:
        """Norm q and k where weights are given, rotate them by halves, write k and v to their slots, return q.

        Args:
            qkv: [T, (H + 2K) * D], overwritten. pages: [2, N, K, 16, D]. q_norm, k_norm: [D], both or neither.

        Returns:
            q, [T, H, D].
        """
        num_kv_heads, head_dim = pages.shape[2], pages.shape[4]
        heads = qkv.view(qkv.shape[0], -1, head_dim)
        turning = heads[:, : num_heads + num_kv_heads]
        if q_norm is not None and k_norm is not None:
            heads[:, :num_heads] = self.rms_norm(heads[:, :num_heads], q_norm, eps)
            turning[:, num_heads:] = self.rms_norm(turning[:, num_heads:], k_norm, eps)
        cos, sin = rotation.whole
        rolled = turning.roll(head_dim // 2, dims=-1)
        if turning.dtype == cos.dtype:
            turning.mul_(cos).addcmul_(rolled, sin)
        else:
            turning.copy_(turning * cos + rolled * sin)  # in fp32, rounded once
        write_pages(heads[:, num_heads:], pages, layout)
        return heads[:, :num_heads]

    def attention(self, q: torch.Tensor, pages: torch.Tensor, layout: StepLayout, *, scale: float) -> torch.Tensor:
        """Causal attention of the new tokens over their sequences' pages.

        Args:
            q: [T, H, D]. pages: [2, N, K, 16, D], the new tokens' keys and values already written.

        Returns:
            [T, H, D].
        """
        if layout.decode:
            return decode_rows(q, pages, layout, scale)
        return (self.prefill or extend_sequences)(q, pages, layout, scale)

    def next_tokens(
        self, hidden: torch.Tensor, norm: torch.Tensor, eps: float, weight: Any, draw: Draw
    ) -> torch.Tensor:
        """Final norm, output embeddings as packed, and a draw, greedy or not: [S, C] -> id and stop, int64 [S, 2].

        Greedy ties go to the lowest id. The noise of other draws is that of `tte_kernels.sample`.
        """
        logits = weight.times(self.rms_norm(hidden, norm, eps)).float()
        if draw.greedy:
            return mark_stops(logits.argmax(-1), draw.stop_ids)
        return sample_logits(logits, *draw.columns, draw.top_k, draw.top_p)

    def pool_normalize(self, hidden: torch.Tensor, norm: torch.Tensor, eps: float, pooling: Pooling) -> torch.Tensor:
        """Final norm, pooling, cut and L2 norm of varlen states before the final norm: [T, C] -> fp32 [S, C]."""
        if pooling.mean:
            normed, bounds = self.rms_norm(hidden, norm, eps).float(), pooling.cu_seqlens.tolist()
            vectors = torch.stack([normed[start:end].mean(0) for start, end in itertools.pairwise(bounds)])
        else:
            vectors = self.rms_norm(hidden[pooling.cu_seqlens[1:] - 1], norm, eps).float()
        vectors = vectors * (torch.arange(vectors.shape[1], device=vectors.device) < pooling.dims[:, None])
        return torch.where(pooling.normalize[:, None], F.normalize(vectors, dim=-1), vectors)

    def finish_rows(
        self,
        hidden: torch.Tensor,
        rows: Sequence[int],
        norm: torch.Tensor,
        eps: float,
        dims: Sequence[int],
        normalize: Sequence[bool],
    ) -> torch.Tensor:
        """`pool_normalize` of single rows of states, each with its cut and norm: [T, C] -> fp32 [S, C]."""
        states = hidden.index_select(0, to_device(rows, torch.int64, hidden.device))
        return self.pool_normalize(states, norm, eps, Pooling.of([1] * len(rows), dims, normalize, hidden.device))


def norm_rows(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMSNorm, [..., C]; a row's bits do not depend on how many there are."""
    if x.dtype == torch.float32:
        return F.rms_norm(x, weight.shape, weight, eps)  # the same order of rounding, in one call
    return weight * F.rms_norm(x.float(), weight.shape, None, eps).to(x.dtype)


def _norm_row(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMSNorm of one row, [1, C], in half the time: torch's own is six small ops on a CPU."""
    wide = x.float()
    row = wide[0]
    scale = 1.0 / math.sqrt(torch.dot(row, row).item() / row.shape[0] + eps)
    return (wide * scale).to(x.dtype).mul_(weight)
