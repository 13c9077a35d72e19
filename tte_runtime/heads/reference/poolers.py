"""Three heads of the paper in plain torch: attention pooler, latent attention, QFormer. The readable reference.

Think-Then-Embed (arXiv 2510.05014) names these designs beside its best one and gives their scores, but neither their
sizes nor their layers. Ours are made of two blocks, attention to a context and an MLP, each with an RMSNorm before it
and a residual past it, without biases, the MLP gated (SwiGLU), as the backbones' own layers are. All end alike: final
RMSNorm of each row, mean over the rows, L2 norm. States carry their positions, so none of these heads rotates; none is
causal, since all of a request is there when its vector is read. Knows no pages, caches or engines.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tte_runtime.heads.reference.base import HeadModule

# Learned rows begin small beside what attention adds to them, so that a step of Adam can turn them.
START = 0.02


class Attention(nn.Module):
    """x + o(softmax(q k^T / sqrt(D)) v), with q of the normed x, k and v of the normed context."""

    def __init__(self, width: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_norm = nn.RMSNorm(width, eps)
        self.context_norm = nn.RMSNorm(width, eps)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, context: Tensor, seen: Tensor | None = None) -> Tensor:
        """x [S or 1, N, C], context [S or 1, M, C], seen bool [S, M] (all where it is `None`): [S, N, C]."""

        def split(rows: Tensor) -> Tensor:
            return rows.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

        normed = self.context_norm(context)
        q, k, v = split(self.q_proj(self.query_norm(x))), split(self.k_proj(normed)), split(self.v_proj(normed))
        # Plain products: on a CPU the backward pass of torch's fused attention is many times slower in bfloat16.
        scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
        if seen is not None:
            scores = scores.masked_fill(~seen[:, None, None], -torch.inf)
        mixed = scores.softmax(-1).to(v.dtype) @ v
        return x + self.o_proj(mixed.transpose(1, 2).flatten(2))


class GatedMlp(nn.Module):
    """x + down(silu(gate) * up) of the normed x."""

    def __init__(self, width: int, intermediate_size: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps)
        self.gate_proj = nn.Linear(width, intermediate_size, bias=False)
        self.up_proj = nn.Linear(width, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        normed = self.norm(x)
        return x + self.down_proj(F.silu(self.gate_proj(normed)) * self.up_proj(normed))


class QFormerBlock(nn.Module):
    """Queries attend to the states, then to one another, then each goes through the MLP.

    BLIP-2 (arXiv 2301.12597) lets the queries attend to one another first. In a first block that mixes learned
    constants, and in a head of one block, what the queries have read of the states would never meet. So states come
    first here; with several blocks the difference is only where the chain begins and ends.
    """

    def __init__(self, width: int, num_heads: int, intermediate_size: int, eps: float) -> None:
        super().__init__()
        self.cross = Attention(width, num_heads, eps)
        self.among = Attention(width, num_heads, eps)
        self.mlp = GatedMlp(width, intermediate_size, eps)

    def forward(self, x: Tensor, states: Tensor, seen: Tensor) -> Tensor:
        """x [S or 1, Q, C], states [S, T, C], seen bool [S, T]: [S, Q, C]."""
        x = self.cross(x, states, seen)
        return self.mlp(self.among(x, x))


class AttentionPooler(HeadModule):
    """Learned queries attend to the states, once; their rows go through an MLP.

    The paper: "simple attention pooler", depth 1, 1 to 16 queries, 47 to 49 points whatever their number. Ours has one
    query by default, and an output MLP.
    """

    def __init__(self, config: Any, num_queries: int = 1, num_heads: int = 12, intermediate_size: int = 4096) -> None:
        super().__init__()
        width, eps = _shape(config)
        self.queries = nn.Parameter(START * torch.randn(num_queries, width))
        self.cross = Attention(width, num_heads, eps)
        self.mlp = GatedMlp(width, intermediate_size, eps)
        self.norm = nn.RMSNorm(width, eps)

    def forward(self, tapped: Tensor, position_ids: Tensor, last: Tensor) -> Tensor:
        """As `HeadModule.forward`; positions are not used."""
        rows = self.mlp(self.cross(self.queries[None], tapped, _seen(tapped, last)))
        return F.normalize(self.norm(rows).float().mean(1), dim=-1)


class LatentAttention(HeadModule):
    """Every state attends to learned latents and goes through an MLP; the vector is the mean over all tokens.

    NV-Embed (arXiv 2405.17428): the states are the queries, the latents keys and values, residuals past both blocks,
    then the mean. There the states come from the model's final norm; tapped ones do not, so they are normed first. The
    paper has it at 44.4 points.
    """

    def __init__(self, config: Any, num_latents: int = 512, num_heads: int = 12, intermediate_size: int = 4096) -> None:
        super().__init__()
        width, eps = _shape(config)
        self.latents = nn.Parameter(START * torch.randn(num_latents, width))
        self.input_norm = nn.RMSNorm(width, eps)
        self.cross = Attention(width, num_heads, eps)
        self.mlp = GatedMlp(width, intermediate_size, eps)
        self.norm = nn.RMSNorm(width, eps)

    def forward(self, tapped: Tensor, position_ids: Tensor, last: Tensor) -> Tensor:
        """As `HeadModule.forward`; positions are not used."""
        rows = self.norm(self.mlp(self.cross(self.input_norm(tapped), self.latents[None]))).float()
        seen = _seen(tapped, last)[:, :, None]
        return F.normalize((rows * seen).sum(1) / seen.sum(1), dim=-1)


class QFormer(HeadModule):
    """Blocks of learned queries that read the states; the vector is the mean over the queries.

    The paper: "QFormer-style head", 65.7 to 67.1 points, next to the copied decoder layers.
    """

    def __init__(
        self,
        config: Any,
        num_layers: int = 2,
        num_queries: int = 32,
        num_heads: int = 12,
        intermediate_size: int = 4096,
    ) -> None:
        super().__init__()
        width, eps = _shape(config)
        self.queries = nn.Parameter(START * torch.randn(num_queries, width))
        self.blocks = nn.ModuleList(QFormerBlock(width, num_heads, intermediate_size, eps) for _ in range(num_layers))
        self.norm = nn.RMSNorm(width, eps)

    def forward(self, tapped: Tensor, position_ids: Tensor, last: Tensor) -> Tensor:
        """As `HeadModule.forward`; positions are not used."""
        rows, seen = self.queries[None], _seen(tapped, last)
        for block in self.blocks:
            rows = block(rows, tapped, seen)
        return F.normalize(self.norm(rows).float().mean(1), dim=-1)


def _shape(config: Any) -> tuple[int, float]:
    """Width and epsilon of the backbone's norms."""
    text = config.get_text_config()
    return text.hidden_size, text.rms_norm_eps


def _seen(tapped: Tensor, last: Tensor) -> Tensor:
    """Which states are not padding, bool [S, T]."""
    return torch.arange(tapped.shape[1], device=tapped.device) <= last[:, None]
