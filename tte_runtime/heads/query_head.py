"""The heads of learned queries that attend to the tapped states: `attention_pooler` and `qformer`, on the ops.

Their reference, and what the paper says of them, is `heads/reference/poolers.py`: a pooler is a QFormer of one block
whose queries do not attend to one another. Knows no cache of the engine and no request.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from tte_runtime.heads.blocks import Attention, Mlp, Place
from tte_runtime.heads.spec import AttentionPooler, QFormer
from tte_runtime.models.spec import DecoderSpec
from tte_runtime.models.weights import Tensors
from tte_runtime.ops import Pooling, TorchOps


@dataclass(frozen=True)
class Block:
    """Queries attend to the states, then to one another (where there is `among`), then each goes through the MLP."""

    cross: Attention
    among: Attention | None
    mlp: Mlp


class QueryHead:
    """Blocks over learned queries, a final norm, and the mean of the queries' rows.

    Args:
        queries: [Q, C]. blocks: in order. norm: [C].
        tap_layer: where in the backbone the states are tapped.
    """

    def __init__(self, queries: torch.Tensor, blocks: list[Block], norm: torch.Tensor, tap_layer: int) -> None:
        self.queries = queries
        self.blocks = blocks
        self.norm = norm
        self.tap_layer = tap_layer

    def forward(
        self, states: torch.Tensor, positions: torch.Tensor, lengths: list[int], pooling: Pooling
    ) -> torch.Tensor:
        """As `Head.forward`; positions are not used."""
        own = [len(self.queries)] * len(lengths)
        x = self.queries.repeat(len(lengths), 1)
        for block in self.blocks:
            x = block.cross.forward(x, own, block.cross.keys_values(states).split(lengths))
            if block.among is not None:
                x = block.among.forward(x, own, block.among.keys_values(x).split(own))
            x = block.mlp.forward(x)
        bounds = len(self.queries) * torch.arange(len(lengths) + 1, dtype=torch.int32, device=x.device)
        cross = self.blocks[0].cross
        return cross.ops.pool_normalize(x, self.norm, cross.eps, replace(pooling, cu_seqlens=bounds, mean=True))


def load_pooler(
    files: Tensors, sizes: AttentionPooler, backbone: DecoderSpec, ops: TorchOps, place: Place, tap_layer: int
) -> QueryHead:
    """An `attention_pooler`; raises CheckpointError where a tensor is missing or of another shape."""
    cross = Attention.load(files, "cross.", sizes.num_heads, backbone, ops, place)
    mlp = Mlp.load(files, "mlp.", sizes.intermediate_size, backbone, ops, place)
    return _head(files, sizes.num_queries, [Block(cross, None, mlp)], backbone, place, tap_layer)


def load_qformer(
    files: Tensors, sizes: QFormer, backbone: DecoderSpec, ops: TorchOps, place: Place, tap_layer: int
) -> QueryHead:
    """A `qformer`; raises CheckpointError where a tensor is missing or of another shape."""
    blocks = [
        Block(
            cross=Attention.load(files, f"blocks.{i}.cross.", sizes.num_heads, backbone, ops, place),
            among=Attention.load(files, f"blocks.{i}.among.", sizes.num_heads, backbone, ops, place),
            mlp=Mlp.load(files, f"blocks.{i}.mlp.", sizes.intermediate_size, backbone, ops, place),
        )
        for i in range(sizes.num_layers)
    ]
    return _head(files, sizes.num_queries, blocks, backbone, place, tap_layer)


def _head(
    files: Tensors, num_queries: int, blocks: list[Block], backbone: DecoderSpec, place: Place, tap_layer: int
) -> QueryHead:
    queries = place(files.get("queries", (num_queries, backbone.hidden_size)))
    return QueryHead(queries, blocks, place(files.get("norm.weight", (backbone.hidden_size,))), tap_layer)
