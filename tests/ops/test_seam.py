"""Both backends of the seam, op by op on the same tensors: what the engine's own tests would show too late.

Knows no model and no request.
"""

from __future__ import annotations

import pytest
import torch
from kernel_harness import DEVICE

from tte_runtime.ops import Pooling, TorchOps
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
