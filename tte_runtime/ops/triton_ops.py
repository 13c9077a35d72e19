"""Every op on our Triton kernels: what a GPU runs, and CPU tensors under Triton's interpreter.

Prompt tokens take `rms_norm` + `linear` + `extend_attention`, decode rows `decode_linear` + `decode_attention`: a
token's path follows its role. Launchers are called directly; contracts and references stand at each op of
`tte_kernels`. Knows tensors; knows no model, request or recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tte_kernels import pack
from tte_kernels.decode_attention.kernel import launch as decode_attention
from tte_kernels.decode_linear.kernel import launch as decode_linear
from tte_kernels.extend_attention.kernel import launch as extend_attention
from tte_kernels.linear.kernel import launch as linear
from tte_kernels.pool_normalize.kernel import launch as pool_normalize
from tte_kernels.rms_norm.kernel import launch as rms_norm
from tte_kernels.rope_write_kv.kernel import launch as rope_write_kv
from tte_kernels.sample.kernel import launch as sample
from tte_kernels.sample.reference import sample_logits
from tte_runtime.ops.layout import Draw, Pooling, Rotation, StepLayout
from tte_runtime.ops.torch_ops import TorchOps
from tte_runtime.ops.transfer import to_device

MAX_ROWS = 64  # of one decode_linear launch


@dataclass(frozen=True)
class Packed:
    """A matrix for both paths: as it is for prompts, in the format of the option `weights` for decode rows."""

    dense: torch.Tensor
    rows: Any


class TritonOps(TorchOps):
    """The ops of `TorchOps`, every one of them on kernels unless `prefill` is given; shapes stand there."""

    name = "triton"

    def pack(self, weight: torch.Tensor) -> Packed:
        """A matrix [O, I] in the forms of both linear ops."""
        return Packed(weight, pack(weight, self.weights))

    def pack_output(self, weight: torch.Tensor) -> torch.Tensor:
        """The output embeddings as they are: `sample` and `linear` read the dense matrix."""
        return weight

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """x / rms(x) * weight, a row by itself."""
        return rms_norm(x, weight, eps)[0]

    def norm_linear(
        self,
        hidden: torch.Tensor,
        norm: torch.Tensor,
        eps: float,
        weight: Packed,
        bias: torch.Tensor | None,
        layout: StepLayout,
    ) -> torch.Tensor:
        """Linear of the normed states."""
        if layout.decode:
            return self._rows(hidden, weight, norm_weight=norm, eps=eps, bias=bias)
        return linear(self.rms_norm(hidden, norm, eps), weight.dense, bias)

    def norm_swiglu(
        self, hidden: torch.Tensor, norm: torch.Tensor, eps: float, gate_up: Packed, layout: StepLayout
    ) -> torch.Tensor:
        """silu(gate) * up of the normed states."""
        if layout.decode:
            return self._rows(hidden, gate_up, norm_weight=norm, eps=eps, swiglu=True)
        return linear(self.rms_norm(hidden, norm, eps), gate_up.dense, swiglu=True)

    def linear_residual(
        self, x: torch.Tensor, weight: Packed, residual: torch.Tensor, layout: StepLayout
    ) -> torch.Tensor:
        """residual + linear(x)."""
        if layout.decode:
            return self._rows(x, weight, residual=residual)
        return linear(x, weight.dense, None, residual)

    def _rows(
        self, x: torch.Tensor, weight: Packed, *, residual: torch.Tensor | None = None, **options: Any
    ) -> torch.Tensor:
        """decode_linear in launches of at most 64 rows; a row's bits do not depend on the others'."""
        parts = [
            decode_linear(
                x[at : at + MAX_ROWS],
                weight.rows,
                residual=None if residual is None else residual[at : at + MAX_ROWS],
                **options,
            )
            for at in range(0, x.shape[0], MAX_ROWS)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

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
        """Norm q and k where weights are given, rotate them, write k and v to their slots, return q."""
        return rope_write_kv(
            qkv,
            rotation.cos,
            rotation.sin,
            pages,
            layout.slots,
            num_heads=num_heads,
            q_norm=q_norm,
            k_norm=k_norm,
            eps=eps,
        )

    def attention(self, q: torch.Tensor, pages: torch.Tensor, layout: StepLayout, *, scale: float) -> torch.Tensor:
        """Causal attention of the new tokens over their sequences' pages."""
        if layout.decode:
            return decode_attention(q, pages, layout.page_table, layout.kv_lens, scale=scale)
        if self.prefill is not None:
            return self.prefill(q, pages, layout, scale)
        return extend_attention(
            q,
            pages,
            layout.page_table,
            layout.cu_seqlens,
            layout.kv_lens,
            scale=scale,
            max_query_len=max(layout.query_lens_host),
        )

    def next_tokens(
        self, hidden: torch.Tensor, norm: torch.Tensor, eps: float, weight: Any, draw: Draw
    ) -> torch.Tensor:
        """Final norm, output embeddings and a draw: without writing logits, unless top-k or top-p need them."""
        normed = self.rms_norm(hidden, norm, eps)
        if draw.filtered:
            return sample_logits(linear(normed, weight).float(), *draw.columns, draw.top_k, draw.top_p)
        return sample(normed, weight, *draw.columns)

    def pool_normalize(self, hidden: torch.Tensor, norm: torch.Tensor, eps: float, pooling: Pooling) -> torch.Tensor:
        """Final norm, pooling, cut and L2 norm of varlen states, in one launch."""
        return pool_normalize(
            hidden,
            pooling.cu_seqlens,
            norm_weight=norm,
            eps=eps,
            dims=pooling.dims,
            mode="mean" if pooling.mean else "last",
            normalize=pooling.normalize,
        )

    def finish_rows(
        self,
        hidden: torch.Tensor,
        rows: Sequence[int],
        norm: torch.Tensor,
        eps: float,
        dims: Sequence[int],
        normalize: Sequence[bool],
    ) -> torch.Tensor:
        """As `TorchOps.finish_rows`, in one launch that finds the rows by itself."""
        return pool_normalize(
            hidden,
            rows=to_device(rows, torch.int64, hidden.device),
            norm_weight=norm,
            eps=eps,
            dims=to_device(dims, torch.int32, hidden.device),
            normalize=to_device(normalize, torch.bool, hidden.device),
        )
