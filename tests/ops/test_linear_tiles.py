"""Every shipped tile of linear computes the same product, and the choice between them keeps the order of the sum.

The small parity cases only ever choose the smallest tile. Does not time anything.
"""

from __future__ import annotations

import pytest
import torch
from kernel_harness import DEVICE

from tte_kernels.linear import kernel as linear_kernel
from tte_kernels.linear import linear
from tte_kernels.linear.reference import linear as reference
from tte_kernels.registry import get_op


@pytest.mark.parametrize("tile", linear_kernel.TILES, ids=lambda tile: f"{tile.block_t}x{tile.block_o}")
def test_every_tile_agrees_with_the_reference(tile: linear_kernel.Tile, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(150, 160, generator=generator).to(DEVICE, torch.float16)
    weight = (torch.randn(300, 160, generator=generator) / 160**0.5).to(DEVICE, torch.float16)
    monkeypatch.setattr(linear_kernel, "choose_tile", lambda *_: tile)
    limit = get_op("linear").tolerance[torch.float16]
    for swiglu in (False, True):
        got, want = (product(x, weight, swiglu=swiglu) for product in (linear, reference))
        torch.testing.assert_close(got, want, atol=limit.atol, rtol=limit.rtol)


def test_tiles_share_the_order_of_the_sum() -> None:
    tiles = (*linear_kernel.TILES, *linear_kernel.SWIGLU_TILES)
    assert len({tile.block_i for tile in tiles}) == 1
    assert min(tile.block_t for tile in tiles) >= 64  # one kind of instruction on sm_90


def test_swiglu_has_tiles_of_its_own() -> None:
    for tokens, tile in ((1, linear_kernel.SWIGLU_TILES[-1]), (4096, linear_kernel.SWIGLU_TILES[0])):
        assert linear_kernel.choose_tile(tokens, 8960, torch.bfloat16, False, swiglu=True) == tile


def test_the_widest_tile_is_for_many_tokens_without_epilogue() -> None:
    def chosen(tokens: int, outer: int, has_epilogue: bool = False) -> tuple[int, int]:
        tile = linear_kernel.choose_tile(tokens, outer, torch.bfloat16, has_epilogue)
        return tile.block_t, tile.block_o

    assert chosen(1, 1536) == (64, 64)
    assert chosen(4096, 17920) == (128, 256)
    assert chosen(4096, 17920, has_epilogue=True) == (128, 128)
    assert chosen(300, 1536) == (64, 64)
