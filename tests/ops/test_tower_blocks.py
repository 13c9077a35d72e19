"""Blocks of vision towers as one compiled call, against transformers' own modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLVisionBlock
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLVisionBlock
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionBlock

from tte_runtime.models.tower_blocks import FusedBlock, fuse_blocks, read_block
from tte_runtime.ops import TorchOps

pytest.importorskip("numba")
from tte_runtime.ops.numba_ops import NumbaOps

PICTURES = (64, 4, 130, 36)  # patches of each


def block_of(family: str, heads: int = 3, dim: int = 32, **settings: Any) -> tuple[torch.nn.Module, Any]:
    width = heads * dim
    if family == "qwen2":
        config: Any = Qwen2VLVisionConfig(embed_dim=width, hidden_size=64, num_heads=heads, mlp_ratio=2, **settings)
        kind: Any = Qwen2VLVisionBlock
    elif family == "qwen2_5":
        config = Qwen2_5_VLVisionConfig(hidden_size=width, num_heads=heads, intermediate_size=100, **settings)
        kind = Qwen2_5_VLVisionBlock
    else:
        config = Qwen3VLVisionConfig(hidden_size=width, num_heads=heads, intermediate_size=150, **settings)
        kind = Qwen3VLVisionBlock
    config._attn_implementation = "sdpa"
    torch.manual_seed(3)
    block = kind(config).eval().requires_grad_(False)
    for name, parameter in block.named_parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.1 + (1 if "norm" in name and "weight" in name else 0))
    return block, config


def inputs(width: int, dim: int) -> dict[str, Any]:
    torch.manual_seed(5)
    total = sum(PICTURES)
    angles = torch.randn(total, dim // 2)
    bounds = torch.tensor([0, *torch.tensor(PICTURES).cumsum(0)], dtype=torch.int32)
    turns = tuple(torch.cat([part, part], dim=-1) for part in (angles.cos(), angles.sin()))
    return {"hidden_states": torch.randn(total, width), "cu_seqlens": bounds, "position_embeddings": turns}


@pytest.mark.parametrize("shape", [(3, 32), (2, 80), (5, 16), (2, 64)], ids=str)
@pytest.mark.parametrize("family", ["qwen2", "qwen2_5", "qwen3"])
def test_a_block_is_transformers_own(family: str, shape: tuple[int, int]) -> None:
    block, config = block_of(family, *shape)
    read = read_block(block, config)
    assert read is not None
    given = inputs(shape[0] * shape[1], shape[1])
    kept = given["hidden_states"].clone()
    fused = NumbaOps(1).fuse_block(read)
    assert fused is not None
    ours = FusedBlock(fused)(**given, max_seqlen=130)
    torch.testing.assert_close(ours, block(**given), rtol=1e-5, atol=2e-5)
    assert torch.equal(given["hidden_states"], kept), "what it was given stays the caller's"


@pytest.mark.parametrize("family", ["qwen2", "qwen2_5", "qwen3"])
def test_a_picture_has_its_bits_alone_and_on_any_threads(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("WORTH_DIVIDING", "WORTH_SHARING"):
        monkeypatch.setattr(f"tte_runtime.ops.rows.team.{limit}", 0)
    block, config = block_of(family)
    given = inputs(96, 32)
    read = read_block(block, config)
    assert read is not None
    together = [FusedBlock(NumbaOps(threads).fuse_block(read))(**given) for threads in (1, 2)]  # type: ignore[arg-type]
    assert torch.equal(*together)
    first, last = given["cu_seqlens"][2:4].tolist()
    alone = {
        "hidden_states": given["hidden_states"][first:last],
        "cu_seqlens": torch.tensor([0, last - first], dtype=torch.int32),
        "position_embeddings": tuple(part[first:last] for part in given["position_embeddings"]),
    }
    assert torch.equal(FusedBlock(NumbaOps(1).fuse_block(read))(**alone), together[0][first:last])  # type: ignore[arg-type]


def test_only_activations_that_are_known_are_fused() -> None:
    assert read_block(*block_of("qwen2", hidden_act="gelu")) is None
    assert read_block(*block_of("qwen2", hidden_act="silu")) is None, "silu stands for a gated MLP"
    assert read_block(*block_of("qwen2_5", hidden_act="quick_gelu")) is None
    assert read_block(*block_of("qwen2", hidden_act="gelu_pytorch_tanh")) is not None


def test_backends_that_have_no_such_call_leave_blocks_alone() -> None:
    block, config = block_of("qwen2")
    tower = torch.nn.Module()
    tower.config, tower.blocks = config, torch.nn.ModuleList([block])  # type: ignore[assignment]
    for ops in (TorchOps("w16"), NumbaOps(1, torch.bfloat16)):
        fuse_blocks(tower, ops)
        assert tower.blocks[0] is block
    fuse_blocks(tower, NumbaOps(1))
    assert isinstance(tower.blocks[0], FusedBlock)
