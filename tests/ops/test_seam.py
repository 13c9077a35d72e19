"""Both backends of the seam, op by op on the same tensors: what the engine's own tests would show too late.

Knows no model and no request.
"""

from __future__ import annotations

import pytest
import torch
from kernel_harness import DEVICE

from tte_kernels.decode_attention.cases import ATTENTION_TOLERANCE, pages_of, table_of
from tte_kernels.decode_attention.reference import decode_attention as reference
from tte_runtime.ops import Pooling, StepLayout, TorchOps
from tte_runtime.ops.numba_ops import NumbaOps
from tte_runtime.ops.triton_ops import TritonOps

EPS = 1e-6


def backend_of(name: str) -> TorchOps:
    if name == "triton":
        return TritonOps()
    if DEVICE == "cuda":
        pytest.skip("steps are compiled by Numba on a CPU")
    pytest.importorskip("numba")
    return NumbaOps(1)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.mark.parametrize("backend", ["triton", "numba"])
@pytest.mark.parametrize("mean", [False, True], ids=["last", "mean"])
def test_every_vector_has_its_own_cut_and_norm(mean: bool, backend: str) -> None:
    ops = backend_of(backend)
    lengths, dims, normalize = [1, 7, 63, 2], [96, 8, 64, 1], [True, True, False, False]
    hidden, norm = random(sum(lengths), 96), 1 + 0.1 * random(96, seed=1)
    pooling = Pooling.of(lengths, dims, normalize, hidden.device, mean=mean)
    in_torch, fused = (one.pool_normalize(hidden, norm, EPS, pooling) for one in (TorchOps(), ops))
    torch.testing.assert_close(fused, in_torch, atol=2e-6, rtol=1e-5)
    for row, dim, flag in zip(fused, dims, normalize, strict=True):
        assert not row[dim:].any() and row[:dim].any()
        assert (abs(row.norm().item() - 1) < 1e-6) == flag
    for index, length in enumerate(lengths):  # alone, the same bits
        start = sum(lengths[:index])
        single = Pooling.of([length], [dims[index]], [normalize[index]], hidden.device, mean=mean)
        alone = ops.pool_normalize(hidden[start : start + length], norm, EPS, single)
        assert torch.equal(alone[0], fused[index])


@pytest.mark.parametrize("backend", ["triton", "numba", "torch"])
def test_rows_of_a_step_get_the_bits_of_gathered_ones(backend: str) -> None:
    """In any order, and a row may be read twice with another cut."""
    ops = TorchOps() if backend == "torch" else backend_of(backend)
    rows, dims, normalize = [5, 0, 6, 5], [96, 8, 64, 1], [True, True, False, False]
    hidden, norm = random(9, 96), 1 + 0.1 * random(96, seed=1)
    gathered = torch.cat([hidden[row : row + 1] for row in rows])
    pooling = Pooling.of([1] * 4, dims, normalize, hidden.device)
    expected = ops.pool_normalize(gathered, norm, EPS, pooling)
    assert torch.equal(ops.finish_rows(hidden, rows, norm, EPS, dims, normalize), expected)


@pytest.mark.parametrize("backend", ["triton", "numba"])
def test_a_vector_of_zeros_stays_one_and_nan_shows(backend: str) -> None:
    hidden = torch.zeros(2, 64, device=DEVICE)
    hidden[1, 5] = float("nan")
    pooling = Pooling.of([1, 1], [64, 64], [True, True], hidden.device)
    vectors = backend_of(backend).pool_normalize(hidden, random(64), EPS, pooling)
    assert not vectors[0].any() and vectors[1].isnan().all()


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("lengths", [(37,), (64, 129, 1), (1500,) * 3], ids=lambda lengths: f"S{len(lengths)}")
def test_decoding_in_torch_reads_nothing_beyond_a_row(lengths: tuple[int, ...], rubbish: float) -> None:
    heads, kv_heads, dim = 6, 2, 32
    table, num_pages = table_of(lengths, 1, DEVICE)
    pages = pages_of(table, num_pages, lengths, kv_heads, dim, 2, DEVICE, torch.float32)
    unowned = pages.isnan()
    q, lens = random(len(lengths), heads, dim), torch.tensor(lengths, dtype=torch.int32, device=DEVICE)
    starts = torch.arange(len(lengths) + 1, dtype=torch.int32, device=DEVICE)
    slots = torch.zeros(len(lengths), dtype=torch.int64, device=DEVICE)

    def attend(fill: float) -> torch.Tensor:
        filled = pages.masked_fill(unowned, fill)
        layout = StepLayout(True, slots, table, starts, lens, (1,) * len(lengths), lengths)
        return TorchOps().attention(q, filled, layout, scale=dim**-0.5)

    got, limit = attend(rubbish), ATTENTION_TOLERANCE[torch.float32]
    assert torch.equal(got, attend(0.0)), "what lies in a slot that no row owns moved bits"
    want = reference(q, pages, table, lens, scale=dim**-0.5)
    torch.testing.assert_close(got, want, atol=limit.atol, rtol=limit.rtol)
