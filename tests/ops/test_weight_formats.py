"""The weight formats of decode_linear: what packing loses, what it keeps, and that rows stay apart in every format.

Does not know models; real weights are judged where models are.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from kernel_harness import DEVICE

from tte_kernels.decode_linear import FORMATS, MAX_ROWS, decode_linear, pack, unpack
from tte_kernels.decode_linear.kernel import choose_config
from tte_kernels.errors import KernelInputError, KernelTypeError


def weight_of(outer: int, inner: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(outer, inner, generator=generator) * inner**-0.5).to(DEVICE)


def test_w16_is_the_weight_itself() -> None:
    weight = weight_of(8, 32)
    packed = pack(weight, "w16")
    assert packed.data is weight
    assert packed.nbytes == weight.nbytes


@pytest.mark.parametrize("inner", [1, 100, 128, 256, 300])
def test_w8a16_is_within_half_a_step(inner: int) -> None:
    weight = weight_of(8, inner)
    packed = pack(weight, "w8a16")
    assert packed.scale is not None
    assert ((unpack(packed) - weight).abs() <= packed.scale[:, None] * 0.5001).all()


@pytest.mark.parametrize("inner", [1, 100, 128, 256, 300])
def test_w4a16_is_within_a_step_of_its_group(inner: int) -> None:
    weight = weight_of(8, inner)
    packed = pack(weight, "w4a16")
    assert packed.scale is not None
    step = packed.scale.T.float().repeat_interleave(128, 1)[:, :inner]
    # Half a step of rounding, and up to half a step more at the ends, as zero is rounded to a code itself.
    assert ((unpack(packed) - weight).abs() <= step * 1.001).all()
    assert unpack(packed).shape == weight.shape


@pytest.mark.parametrize("format", FORMATS)
def test_zeros_stay_zeros(format: str) -> None:
    weight = weight_of(6, 384)
    weight[0] = 0
    weight[1, ::3] = 0
    weight[2, :200] = 0
    back = unpack(pack(weight, format))
    assert back[weight == 0].abs().max() == 0
    assert back.isfinite().all()


@pytest.mark.parametrize("format", FORMATS)
def test_signs_and_outliers_survive(format: str) -> None:
    weight = weight_of(4, 256)
    weight[0, 7], weight[1, :128] = (
        50.0,
        weight[1, :128].abs() + 1,
    )  # an outlier; a group with no zero in its range
    back = unpack(pack(weight, format))
    assert abs(back[0, 7].item() - 50) < 2
    torch.testing.assert_close(back[1, :128], weight[1, :128], atol=0.15, rtol=0)


def test_fewer_bits_are_fewer_bytes() -> None:
    weight = weight_of(256, 1536).half()
    sizes = [pack(weight, format).nbytes / weight.nbytes for format in FORMATS]
    assert sizes[0] == 1
    assert sizes[1] < 0.51
    assert sizes[2] < 0.27


@pytest.mark.parametrize("format", FORMATS)
def test_a_row_has_equal_bits_in_every_row_tile(format: str) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(MAX_ROWS, 192, generator=generator).to(DEVICE)
    packed, norm = pack(weight_of(24, 192), format), torch.rand(192, generator=generator).to(DEVICE)
    whole = decode_linear(x, packed, norm_weight=norm, swiglu=True)
    for rows in (1, 16, 17, 33):
        assert torch.equal(decode_linear(x[:rows], packed, norm_weight=norm, swiglu=True), whole[:rows]), rows


def test_every_size_has_a_configuration() -> None:
    for format in FORMATS:
        for dtype in (torch.float32, torch.bfloat16):
            for columns, swiglu in itertools.product((1, 4223, 4224, 10**6), (False, True)):
                sizes = range(1, MAX_ROWS + 1)
                tiles = {choose_config(format, rows, columns, dtype, swiglu)[0] for rows in sizes}
                assert tiles <= {16, 32}


def test_packing_refuses_what_it_cannot_pack() -> None:
    with pytest.raises(KernelInputError, match="format must be one of 'w16', 'w8a16', 'w4a16', got 'int3'"):
        pack(weight_of(4, 16), "int3")
    with pytest.raises(KernelTypeError, match="weight must have dtype"):
        pack(weight_of(4, 16).to(torch.int8))
    with pytest.raises(KernelInputError, match=r"weight must have shape \[O, I\]"):
        pack(weight_of(4, 16)[0])
