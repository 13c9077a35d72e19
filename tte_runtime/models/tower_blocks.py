"""The blocks of transformers' vision towers, as a backend takes them that runs each as one call.

One form serves all three families: norm, attention, norm, MLP; their names differ. Knows transformers' modules; knows
no kernel.
"""

from __future__ import annotations

from typing import Any

import torch

from tte_runtime.ops import TorchOps
from tte_runtime.ops.rows.tower import CURVES, Affine, Block, RowBlock


class FusedBlock(torch.nn.Module):
    """Stands in a tower for a block of transformers. `fused` is the block, its weights copied."""

    def __init__(self, fused: RowBlock) -> None:
        super().__init__()
        self.fused = fused

    def forward(
        self,
        hidden_states: torch.Tensor,
        cu_seqlens: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        **_: Any,
    ) -> torch.Tensor:
        """[N, C] -> [N, C]; arguments as transformers' block takes them."""
        return self.fused.forward(hidden_states, *position_embeddings, cu_seqlens)


def fuse_blocks(tower: torch.nn.Module, ops: TorchOps) -> None:
    """Replace the blocks of a tower that the backend runs as one call, where it does and knows their activation."""
    blocks: Any = tower.blocks
    for index, block in enumerate(blocks):
        read = read_block(block, tower.config)
        fused = None if read is None else ops.fuse_block(read)
        if fused is not None:
            blocks[index] = FusedBlock(fused)


def read_block(block: Any, config: Any) -> Block | None:
    """Weights and settings of a block of Qwen2-VL's, Qwen2.5-VL's or Qwen3-VL's tower; `None` if its activation is not
    one of those that they were trained with.
    """
    mlp = block.mlp
    gated = hasattr(mlp, "gate_proj")
    if config.hidden_act not in CURVES or gated != (CURVES[config.hidden_act] is None):
        return None
    norms = block.norm1, block.norm2
    if gated:
        gates, ups = mlp.gate_proj, mlp.up_proj
        first = Affine(torch.cat([gates.weight, ups.weight]), torch.cat([gates.bias, ups.bias]))
        second = mlp.down_proj
    else:
        first, second = (mlp.fc1, mlp.fc2) if hasattr(mlp, "fc1") else (mlp.linear_fc1, mlp.linear_fc2)
        first = affine(first)
    return Block(
        heads=config.num_heads,
        eps=norms[0].eps if hasattr(norms[0], "eps") else norms[0].variance_epsilon,
        input_norm=affine(norms[0]),
        qkv=affine(block.attn.qkv),
        out=affine(block.attn.proj),
        post_norm=affine(norms[1]),
        first=first,
        second=affine(second),
        activation=config.hidden_act,
    )


def affine(module: Any) -> Affine:
    """Weight and bias of a module, not copied."""
    return Affine(module.weight.detach(), getattr(module, "bias", None))
