"""Every op in plain torch: what a CPU runs, and what the Triton backend is compared with.

The rounding order is that of transformers' Llama family. Knows tensors; knows no model, request or recipe.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F

from tte_kernels.sample.reference import sample_logits
from tte_runtime.config import PAGE_SIZE
from tte_runtime.ops.layout import Draw, Pooling, Rotation, StepLayout


class TorchOps:
    """Every op in plain torch; the rounding order is that of transformers' Llama family."""

    name = "torch"

    def pack(self, weight: torch.Tensor) -> Any:
        """A matrix [O, I] in the form that this backend's linear ops take."""
        return weight

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """x / rms(x) in fp32, rounded to x's dtype, times `weight`. [T, C] -> [T, C]."""
        if x.dtype == torch.float32:
            return F.rms_norm(x, weight.shape, weight, eps)  # the same order of rounding, in one call
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        return weight * wide.to(x.dtype)

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
        return F.linear(self.rms_norm(hidden, norm, eps), weight, bias)

    def norm_swiglu(
        self, hidden: torch.Tensor, norm: torch.Tensor, eps: float, gate_up: Any, layout: StepLayout
    ) -> torch.Tensor:
        """silu(gate) * up of the normed states: [T, C], gate_up [2F, C] -> [T, F]."""
        gate, up = F.linear(self.rms_norm(hidden, norm, eps), gate_up).chunk(2, dim=-1)
        return F.silu(gate) * up

    def linear_residual(self, x: torch.Tensor, weight: Any, residual: torch.Tensor, layout: StepLayout) -> torch.Tensor:
        """residual + linear(x): [T, I], weight [O, I], residual [T, O] -> [T, O]."""
        return torch.addmm(residual, x, weight.T)

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
        page, offset = layout.page_and_offset
        pages[:, page, :, offset] = heads[:, num_heads:].unflatten(1, (2, num_kv_heads))
        return heads[:, :num_heads]

    def attention(self, q: torch.Tensor, pages: torch.Tensor, layout: StepLayout, *, scale: float) -> torch.Tensor:
        """Causal attention of the new tokens over their sequences' pages.

        Args:
            q: [T, H, D]. pages: [2, N, K, 16, D], the new tokens' keys and values already written.

        Returns:
            [T, H, D].
        """
        if layout.decode:
            return self._decode_attention(q, pages, layout, scale)
        outputs, start = [], 0
        for index, (query_len, kv_len) in enumerate(zip(layout.query_lens_host, layout.kv_lens_host, strict=True)):
            keys_values = _gather(pages, layout.page_table[index], kv_len)
            outputs.append(_extend(q[start : start + query_len], keys_values, scale))
            start += query_len
        return torch.cat(outputs)

    def _decode_attention(self, q: torch.Tensor, pages: torch.Tensor, layout: StepLayout, scale: float) -> torch.Tensor:
        rows, num_heads, head_dim = q.shape
        num_kv_heads = pages.shape[2]
        table, mask = layout.rows
        kv = pages[:, table, torch.arange(num_kv_heads, device=q.device)[:, None]].flatten(3, 4)  # [2, S, K, P * 16, D]
        packed = q.view(rows, num_kv_heads, num_heads // num_kv_heads, head_dim)  # a kv head's queries together
        out = F.scaled_dot_product_attention(packed, kv[0], kv[1], attn_mask=mask, scale=scale)
        return out.reshape(rows, num_heads, head_dim)

    def next_tokens(
        self, hidden: torch.Tensor, norm: torch.Tensor, eps: float, weight: torch.Tensor, draw: Draw
    ) -> torch.Tensor:
        """Final norm, output embeddings and a draw, greedy or not: [S, C], weight [V, C] -> int64 [S].

        Greedy ties go to the lowest id. The noise of other draws is that of `tte_kernels.sample`.
        """
        logits = F.linear(self.rms_norm(hidden, norm, eps), weight).float()
        if draw.greedy:
            return logits.argmax(-1)
        return sample_logits(
            logits, draw.temperature, draw.seed, draw.position, draw.trace_index, draw.top_k, draw.top_p
        )

    def pool_normalize(self, hidden: torch.Tensor, norm: torch.Tensor, eps: float, pooling: Pooling) -> torch.Tensor:
        """Final norm, pooling, cut and L2 norm of varlen states before the final norm: [T, C] -> fp32 [S, C]."""
        if pooling.mean:
            normed, bounds = self.rms_norm(hidden, norm, eps).float(), pooling.cu_seqlens.tolist()
            vectors = torch.stack([normed[start:end].mean(0) for start, end in itertools.pairwise(bounds)])
        else:
            vectors = self.rms_norm(hidden[pooling.cu_seqlens[1:] - 1], norm, eps).float()
        vectors = vectors * (torch.arange(vectors.shape[1], device=vectors.device) < pooling.dims[:, None])
        return torch.where(pooling.normalize[:, None], F.normalize(vectors, dim=-1), vectors)


def _gather(pages: torch.Tensor, table: torch.Tensor, length: int) -> torch.Tensor:
    """Keys and values of one sequence as [2, K, length, D]."""
    own = pages[:, table[: -(-length // PAGE_SIZE)]]  # [2, P, K, 16, D]
    return own.transpose(1, 2).flatten(2, 3)[:, :, :length]


def _extend(q: torch.Tensor, keys_values: torch.Tensor, scale: float) -> torch.Tensor:
    """Attention of one sequence's last tokens, [t, H, D], over all its tokens, [2, K, n, D]."""
    query_len, num_heads, _ = q.shape
    _, num_kv_heads, kv_len, _ = keys_values.shape
    k, v = keys_values.repeat_interleave(num_heads // num_kv_heads, dim=1)[:, None]
    # SDPA's own causal mask aligns top-left, ours bottom-right: the new tokens are the last ones.
    mask = torch.ones(query_len, kv_len, dtype=torch.bool, device=q.device).tril(kv_len - query_len)
    out = F.scaled_dot_product_attention(q.transpose(0, 1)[None], k, v, attn_mask=mask, scale=scale)
    return out[0].transpose(0, 1)
