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
from tte_runtime.ops.triton_ops import TritonOps

EPS = 1e-6


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.mark.parametrize("mean", [False, True], ids=["last", "mean"])
def test_every_vector_has_its_own_cut_and_norm(mean: bool) -> None:
    lengths, dims, normalize = [1, 7, 63, 2], [96, 8, 64, 1], [True, True, False, False]
    hidden, norm = random(sum(lengths), 96), 1 + 0.1 * random(96, seed=1)
    pooling = Pooling.of(lengths, dims, normalize, hidden.device, mean=mean)
    torch_out, triton_out = (ops.pool_normalize(hidden, norm, EPS, pooling) for ops in (TorchOps(), TritonOps()))
    torch.testing.assert_close(triton_out, torch_out, atol=2e-6, rtol=1e-5)
    for row, dim, flag in zip(triton_out, dims, normalize, strict=True):
        assert not row[dim:].any() and row[:dim].any()
        assert (abs(row.norm().item() - 1) < 1e-6) == flag
    for index, length in enumerate(lengths):  # alone, the same bits
        start = sum(lengths[:index])
        single = Pooling.of([length], [dims[index]], [normalize[index]], hidden.device, mean=mean)
        alone = TritonOps().pool_normalize(hidden[start : start + length], norm, EPS, single)
        assert torch.equal(alone[0], triton_out[index])


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
