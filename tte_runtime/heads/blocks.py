"""The two blocks of the heads that pool: attention to a context, and a gated MLP, on the ops.

Both have an RMSNorm before and a residual past them; `heads/reference/poolers.py` says whence the design. Every product
takes the path of prompts, whose order of summation does not change with the number of rows, and every request has an
attention call of its own, so no row depends on its neighbours. Knows rows and weights; knows no head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from tte_runtime.models.spec import DecoderSpec
from tte_runtime.models.weights import Tensors
from tte_runtime.ops import StepLayout, TorchOps

Place = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Attention:
    """x + out(softmax(q k^T / sqrt(D)) v), q of the normed x, k and v of the normed context; H heads, C = H * D."""

    num_heads: int
    query_norm: torch.Tensor  # [C]
    context_norm: torch.Tensor  # [C]
    q: Any  # [C, C]
    kv: Any  # [2C, C]
    out: Any  # [C, C]
    eps: float
    ops: TorchOps

    @classmethod
    def load(
        cls, files: Tensors, prefix: str, num_heads: int, backbone: DecoderSpec, ops: TorchOps, place: Place
    ) -> Attention:
        """The block whose tensors stand under `prefix`, packed for the backend."""
        width = backbone.hidden_size

        def matrix(*names: str) -> Any:
            parts = [files.get(f"{prefix}{name}_proj.weight", (width, width)) for name in names]
            return ops.pack(place(torch.cat(parts)))

        def norm(name: str) -> torch.Tensor:
            return place(files.get(f"{prefix}{name}_norm.weight", (width,)))

        matrices = matrix("q"), matrix("k", "v"), matrix("o")
        return cls(num_heads, norm("query"), norm("context"), *matrices, backbone.norm_eps, ops)

    def keys_values(self, context: torch.Tensor) -> torch.Tensor:
        """Of a context [M, C]: [M, 2, H, D]."""
        rows = self.ops.norm_linear(context, self.context_norm, self.eps, self.kv, None, products_only(context.device))
        return rows.unflatten(1, (2, self.num_heads, -1))

    def forward(self, x: torch.Tensor, lengths: list[int], keys_values: Sequence[torch.Tensor]) -> torch.Tensor:
        """Several requests, each over its own context.

        Args:
            x: [N, C], one request after another. lengths: rows of every request.
            keys_values: of every request's context, [M, 2, H, D] each.

        Returns:
            [N, C].
        """
        layout = products_only(x.device)
        q = self.ops.norm_linear(x, self.query_norm, self.eps, self.q, None, layout).unflatten(1, (self.num_heads, -1))
        mixed = [
            F.scaled_dot_product_attention(*(part.transpose(0, 1)[None] for part in (own, *kv.unbind(1))))[0]
            for own, kv in zip(q.split(lengths), keys_values, strict=True)
        ]  # [H, n, D] each
        together = mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=1)
        return self.ops.linear_residual(together.transpose(0, 1).flatten(1), self.out, x, layout)


@dataclass(frozen=True)
class Mlp:
    """x + down(silu(gate) * up) of the normed x; F the intermediate size."""

    norm: torch.Tensor  # [C]
    gate_up: Any  # [2F, C]
    down: Any  # [C, F]
    eps: float
    ops: TorchOps

    @classmethod
    def load(
        cls, files: Tensors, prefix: str, intermediate_size: int, backbone: DecoderSpec, ops: TorchOps, place: Place
    ) -> Mlp:
        """The block whose tensors stand under `prefix`, packed for the backend."""
        width = backbone.hidden_size
        into = [files.get(f"{prefix}{name}_proj.weight", (intermediate_size, width)) for name in ("gate", "up")]
        down = files.get(f"{prefix}down_proj.weight", (width, intermediate_size))
        norm = place(files.get(f"{prefix}norm.weight", (width,)))
        return cls(norm, ops.pack(place(torch.cat(into))), ops.pack(place(down)), backbone.norm_eps, ops)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C] -> [N, C]."""
        layout = products_only(x.device)
        gated = self.ops.norm_swiglu(x, self.norm, self.eps, self.gate_up, layout)
        return self.ops.linear_residual(gated, self.down, x, layout)


def products_only(device: torch.device) -> StepLayout:
    """A layout for products, which ask it only which path they take: that of prompts."""
    none = torch.empty(0, dtype=torch.int32, device=device)
    return StepLayout(
        decode=False,
        slots=none,
        page_table=none,
        cu_seqlens=none,
        kv_lens=none,
        query_lens_host=(),
        kv_lens_host=(),
    )
