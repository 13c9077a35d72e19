"""What the kernel tests share: which cases run here, and tensors inside guard regions.

Reads ops through `tte_kernels.registry` only, so it does not know any of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from tte_kernels._case import Case, Op
from tte_kernels._launch import interpreted
from tte_kernels.registry import OPS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Real models' cases that run here as well: no more work than the largest small ones have, under a second each in the
# interpreter. Counted, not timed, so that the same cases run everywhere.
SMALL_BYTES, SMALL_FLOPS = 1 << 20, 1 << 25
GUARD = 256  # elements on each side; keeps the alignment of what lies between
KERNELS = {  # everything there is to launch
    "decode_attention_kernel",
    "decode_linear_4bit_kernel",
    "decode_linear_kernel",
    "extend_attention_kernel",
    "linear_kernel",
    "merge_splits_kernel",
    "pool_normalize_kernel",
    "rms_norm_kernel",
    "rope_write_kv_kernel",
    "sample_kernel",
    "sample_reduce_kernel",
}


HEAD_SIZES: dict[str, dict[str, Any]] = {  # of every kind of head, small
    "decoder_layers": {"num_layers": 1, "readout": "mean"},
    "attention_pooler": {"num_queries": 1, "num_heads": 2, "intermediate_size": 48},
    "latent_attention": {"num_latents": 6, "num_heads": 2, "intermediate_size": 64},
    "qformer": {"num_layers": 1, "num_queries": 3, "num_heads": 4, "intermediate_size": 64},
}


def without_interpreter() -> dict[str, str]:
    """The environment of a process in which Triton compiles, and which finds what tests find."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    return environment | {"PYTHONPATH": os.pathsep.join(sys.path)}


def is_small(case: Case) -> bool:
    """A case made to be small, or a real model's that is."""
    return case.tag == "ci" or (case.bytes_of(torch.float32) <= SMALL_BYTES and case.flops <= SMALL_FLOPS)


def small_cases(dtypes: tuple[torch.dtype, ...]) -> list[Any]:
    """As `ci_cases`, with the real models' cases that are small."""
    return _parameters(is_small, dtypes)


def ci_cases(dtypes: tuple[torch.dtype, ...]) -> list[Any]:
    """(op, case, dtype) of every case made to be small, as pytest parameters; bf16 only where it is not interpreted."""
    return _parameters(lambda case: case.tag == "ci", dtypes)


def _parameters(wanted: Callable[[Case], bool], dtypes: tuple[torch.dtype, ...]) -> list[Any]:
    import pytest

    return [
        pytest.param(op, case, dtype, id=f"{op.name}-{case.name}-{str(dtype).removeprefix('torch.')}")
        for op in OPS
        for case in op.cases
        if wanted(case)
        for dtype in dtypes
        if dtype in case.dtypes and not (interpreted() and dtype == torch.bfloat16)
    ]


def full_case(op: Op) -> Case:
    """The small case whose least dimension is largest: no empty batch, more than one row."""
    return max((case for case in op.cases if case.tag == "ci"), key=lambda case: min(case.dims.values()))


@dataclass
class Guards:
    """Places tensors between guard regions filled with one value, and tells whether a guard was written.

    Gaps between the rows of a strided tensor are guarded as well.
    """

    float_value: float
    int_value: int
    placed: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def place(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of `tensor` with the same strides, inside a guarded buffer."""
        span = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        value = self.float_value if tensor.is_floating_point() else self.int_value
        buffer = torch.full((span * bool(tensor.numel()) + 2 * GUARD,), value, dtype=tensor.dtype, device=tensor.device)
        view = buffer.as_strided(tensor.shape, tensor.stride(), GUARD)
        view.copy_(tensor)
        outside = torch.ones_like(buffer, dtype=torch.bool)
        outside.as_strided(tensor.shape, tensor.stride(), GUARD).fill_(False)
        self.placed.append((buffer, outside, buffer.clone()))
        return view

    def assert_untouched(self, op: Op) -> None:
        """Fails if anything outside a placed tensor changed."""
        for number, (buffer, outside, before) in enumerate(self.placed):
            changed = outside & (buffer != before) & ~(buffer.isnan() & before.isnan())
            assert not changed.any(), f"{op.name}: tensor {number} of {len(self.placed)} was written outside its bounds"
