"""A whole tower as one call, against transformers' own module."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from tte_runtime.models.whole_tower import WholeTower, fuse_tower
from tte_runtime.ops import TorchOps

pytest.importorskip("numba")
from tte_runtime.ops.numba_ops import NumbaOps

GRIDS = ((1, 8, 8), (1, 2, 2), (3, 10, 4), (1, 6, 14))  # of pictures, and of a video


def tower_of(heads: int = 3, dim: int = 32, features: int = 72, depth: int = 2, **settings: Any) -> Any:
    config = Qwen2VLVisionConfig(
        embed_dim=heads * dim, hidden_size=features, num_heads=heads, depth=depth, patch_size=6, **settings
    )
    config._attn_implementation = "sdpa"
    torch.manual_seed(3)
    tower = Qwen2VisionTransformerPretrainedModel(config).eval().requires_grad_(False)
    for name, parameter in tower.named_parameters():
        shift = 1 if name.endswith(("norm1.weight", "norm2.weight", "ln_q.weight")) else 0
        parameter.copy_(torch.randn_like(parameter) * 0.1 + shift)
    return tower


def patches_of(grids: tuple[tuple[int, int, int], ...]) -> torch.Tensor:
    torch.manual_seed(5)
    return torch.randn(sum(t * h * w for t, h, w in grids), 3 * 2 * 6 * 6)


def fused(tower: Any, threads: int = 1) -> WholeTower:
    whole = fuse_tower(tower, NumbaOps(threads))
    assert whole is not None
    return whole


@pytest.mark.parametrize("shape", [(3, 32, 72, 2), (2, 80, 64, 1), (5, 16, 33, 3), (1, 64, 192, 2)], ids=str)
@pytest.mark.parametrize("act", ["quick_gelu", "gelu_pytorch_tanh"])
def test_a_tower_is_transformers_own(shape: tuple[int, int, int, int], act: str) -> None:
    tower, patches = tower_of(*shape, hidden_act=act, mlp_ratio=2), patches_of(GRIDS)
    kept = patches.clone()
    ours = fused(tower)(patches, grid_thw=torch.tensor(GRIDS))
    theirs = tower(patches, grid_thw=torch.tensor(GRIDS))
    torch.testing.assert_close(ours, getattr(theirs, "pooler_output", theirs), rtol=1e-4, atol=1e-4)
    assert torch.equal(patches, kept), "what it was given stays the caller's"


def test_weights_of_16_bits_give_what_their_values_give() -> None:
    tower, patches = tower_of(), patches_of(GRIDS)
    for parameter in tower.parameters():
        parameter.copy_(parameter.bfloat16().float())
    whole = fused(tower)
    assert whole.fused.matrices.itemsize == 2
    theirs = tower(patches, grid_thw=torch.tensor(GRIDS))
    torch.testing.assert_close(
        whole(patches, torch.tensor(GRIDS)), getattr(theirs, "pooler_output", theirs), rtol=1e-4, atol=1e-4
    )


def test_a_picture_has_its_bits_alone_and_on_any_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("WORTH_DIVIDING", "WORTH_SHARING"):
        monkeypatch.setattr(f"tte_runtime.ops.rows.team.{limit}", 0)
    tower, patches = tower_of(), patches_of(GRIDS)
    alone, both = (fused(tower, threads) for threads in (1, 2))
    together = both(patches, torch.tensor(GRIDS))
    assert torch.equal(together, alone(patches, torch.tensor(GRIDS)))
    first = at = 0
    for grid in GRIDS:
        count = grid[0] * grid[1] * grid[2]
        own = both(patches[first : first + count], torch.tensor([grid]))
        assert torch.equal(own, together[at : at + count // 4])
        first, at = first + count, at + count // 4


def test_angles_are_kept_by_size_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fused(tower_of())
    for grid in GRIDS:
        whole(patches_of((grid,)), torch.tensor([grid]))
    assert list(whole._turns) == [(h, w) for _, h, w in GRIDS]
    monkeypatch.setattr(whole._turns, "_most", 1)
    whole(patches_of(((1, 4, 4),)), torch.tensor([(1, 4, 4)]))
    assert list(whole._turns) == [(4, 4)], "the one that is needed stays"


@pytest.mark.parametrize("ops", [TorchOps("w16"), NumbaOps(1, torch.bfloat16)], ids=["torch", "16 bits"])
def test_backends_that_have_no_such_call_leave_a_tower_alone(ops: TorchOps) -> None:
    assert fuse_tower(tower_of(), ops) is None


def test_only_towers_that_are_known_are_fused() -> None:
    assert fuse_tower(tower_of(hidden_act="gelu"), NumbaOps(1)) is None
    other = tower_of()
    other.config.model_type = "qwen2_5_vl_vision"
    assert fuse_tower(other, NumbaOps(1)) is None
