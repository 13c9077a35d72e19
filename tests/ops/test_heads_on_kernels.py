"""The heads that pool, on the Triton kernels under the interpreter: equal to torch, and equal bits beside any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kernel_harness import HEAD_SIZES
from transformers import LlamaConfig

from tte_runtime.heads.head import Head, load_head
from tte_runtime.heads.reference import make_reference_head
from tte_runtime.heads.spec import HeadSpec, sizes_of
from tte_runtime.models.spec import decoder_spec
from tte_runtime.ops import Pooling, TorchOps
from tte_runtime.ops.triton_ops import TritonOps

CONFIG = LlamaConfig(hidden_size=64, num_attention_heads=2, num_key_value_heads=1)
LENGTHS = [20, 1, 70]
STATES = [8 * torch.randn(length, 64, generator=torch.Generator().manual_seed(length)) for length in LENGTHS]


def read(head: Head, which: list[int]) -> torch.Tensor:
    """Vectors of some of the requests, the last of which is cut to 40 elements and not normalised."""
    pooling = Pooling.of(
        [1] * len(which), [40 if i == 2 else 64 for i in which], [i != 2 for i in which], torch.device("cpu")
    )
    places = torch.cat([torch.arange(LENGTHS[i]).expand(3, -1) for i in which], dim=1)
    return head.forward(torch.cat([STATES[i] for i in which]), places, [LENGTHS[i] for i in which], pooling)


@pytest.mark.parametrize("kind", HEAD_SIZES)
@torch.inference_mode()
def test_equal_to_torch_and_equal_bits_together_and_alone(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(9)
    make_reference_head(kind, CONFIG, **HEAD_SIZES[kind]).save(tmp_path, torch.float32)
    spec, backbone = HeadSpec(kind, 0, "head.safetensors", sizes_of(kind, HEAD_SIZES[kind], 64)), decoder_spec(CONFIG)
    ours, plain = (
        load_head(tmp_path, spec, backbone, ops, device="cpu", dtype=torch.float32) for ops in (TritonOps(), TorchOps())
    )
    together = read(ours, [0, 1, 2])
    torch.testing.assert_close(together, read(plain, [0, 1, 2]), rtol=0, atol=1e-5)
    assert (together[2, 40:] == 0).all()
    for i in range(len(LENGTHS)):
        assert torch.equal(together[i], read(ours, [i])[0])
