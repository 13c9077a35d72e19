"""The torch backend's weight formats: error bounds, rows that do not know their neighbours, options refused.

Does not know models; what a format costs in cosine and Hit@1 is a figure of `benchmarks.formats`.
"""

from __future__ import annotations

import pytest
import torch

from tte_runtime.config import EngineConfig
from tte_runtime.errors import OptionError
from tte_runtime.ops.matrices import Dense, Int8, OneDnn, Small, pack_matrix

SHAPES = [(7, 5), (96, 64), (960, 576), (576, 1536)]

needs_fbgemm = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="needs torch with fbgemm (x86)"
)


def inputs(outer: int, inner: int, rows: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(outer * inner)
    weight = torch.randn(outer, inner, generator=generator) * inner**-0.5
    x = torch.randn(rows, inner, generator=generator)
    x[3] = 0
    x[4] *= 1000  # a row with outliers must not coarsen the others
    return weight, x, torch.randn(rows, outer, generator=generator)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 8, 9, 40])
@pytest.mark.parametrize("form", [Dense, OneDnn, Small])
def test_every_form_in_float32_is_the_product(
    form: type[Dense] | type[OneDnn] | type[Small], shape: tuple[int, int], rows: int
) -> None:
    weight, x, residual = inputs(*shape, rows=40)
    exact = (x.double() @ weight.T.double())[:rows]
    packed, bias = form(weight), torch.arange(shape[0], dtype=torch.float32)
    scale = exact.abs().amax().item()  # 1,536 sums one after another, as the transposed form makes them
    assert (packed.times(x[:rows]) - exact).abs().max() < 3e-6 * scale
    assert (packed.times(x[:rows], bias) - exact - bias).abs().max() < 3e-6 * (scale + shape[0])
    assert (packed.times_plus(x[:rows], residual[:rows]) - exact - residual[:rows]).abs().max() < 3e-6 * (scale + 4)


@needs_fbgemm
@pytest.mark.parametrize("shape", SHAPES)
def test_w8a8_is_within_its_steps(shape: tuple[int, int]) -> None:
    """Both sides are rounded to 127 steps of their row's largest: each product errs by half a step of either."""
    weight, x, residual = inputs(*shape)
    packed = Int8(weight)
    exact = x.double() @ weight.T.double()
    step_w = weight.abs().amax(1) / 127
    step_x = x.abs().amax(1, keepdim=True) / 127
    bound = (
        x.abs().sum(1, keepdim=True) * step_w / 2
        + step_x / 2 * weight.abs().sum(1)
        + step_x * step_w * shape[1] / 4
        + 1e-5 * exact.abs().amax(1, keepdim=True)
    )
    assert ((packed.times(x) - exact).abs() <= bound).all()
    assert ((packed.times_plus(x, residual) - residual - exact).abs() <= bound + 1e-5).all()


@needs_fbgemm
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_w8a8_row_has_the_same_bits_whoever_sits_beside_it(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight, x, residual = inputs(*shape)
    packed, x, residual = Int8(weight.to(dtype)), x.to(dtype), residual.to(dtype)
    together = packed.times(x), packed.times_plus(x, residual)
    assert together[0].dtype == dtype
    for count in (1, 2, 7, 16):
        for start in range(0, 24, 3):
            rows = slice(start, start + count)
            assert torch.equal(packed.times(x[rows]), together[0][rows])
            assert torch.equal(packed.times_plus(x[rows], residual[rows]), together[1][rows])


@pytest.mark.parametrize("shape", SHAPES)
def test_onednn_errs_no_more_than_bfloat16_does(shape: tuple[int, int]) -> None:
    weight, x, residual = (tensor.bfloat16() for tensor in inputs(*shape))
    if not OneDnn.serves(weight):
        pytest.skip("oneDNN has no bfloat16 product on this machine")
    exact = x.double() @ weight.T.double()
    unit = 2.0**-8
    packed = OneDnn(weight)
    tolerance = unit * (exact.abs() + 1e-2 * x.double().norm(dim=1, keepdim=True))
    assert ((packed.times(x) - exact).abs() <= tolerance).all()
    summed = exact + residual
    assert ((packed.times_plus(x, residual) - summed).abs() <= tolerance + unit * summed.abs()).all()


@needs_fbgemm
def test_packing_leaves_the_process_as_it_was() -> None:
    before = torch.backends.quantized.engine
    Int8(torch.randn(8, 8))
    assert torch.backends.quantized.engine == before


def test_the_form_follows_the_option_and_the_dtype() -> None:
    small, large = torch.randn(4, 4), torch.randn(1025, 1024)
    assert isinstance(pack_matrix(small, "w16"), Small if OneDnn.serves(small) else Dense)
    assert isinstance(pack_matrix(large, "w16"), OneDnn if OneDnn.serves(large) else Dense)
    assert isinstance(pack_matrix(small.bfloat16(), "w16"), OneDnn if OneDnn.serves(small.bfloat16()) else Dense)
    assert isinstance(pack_matrix(small.half(), "w16"), Dense)


def test_a_format_that_the_backend_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(OptionError, match=r"'w4a16' is not available with kernels=\"torch\".*w16, w8a8"):
        EngineConfig(device="cpu", weights="w4a16").resolve(model_context=64, bytes_per_token=64)
    with pytest.raises(OptionError, match=r"unknown weights 'int3'.*w8a8"):
        EngineConfig(weights="int3")
    resolved = EngineConfig(device="cpu").resolve(model_context=64, bytes_per_token=64)
    assert resolved.weights == "w16"
    assert resolved.precision == "float32"
    assert EngineConfig(weights="w8a8", dtype="float32").precision == "float32, w8a8"
