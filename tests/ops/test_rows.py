"""Compiled decode steps against the same layers in plain torch: one row and several, every flag, rubbish in pages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tte_runtime.models.decoder import LayerStack, LayerWeights, Taps
from tte_runtime.models.rope import RopeSpec
from tte_runtime.models.spec import DecoderSpec
from tte_runtime.ops import StepLayout, TorchOps
from tte_runtime.ops.numba_ops import NumbaOps
from tte_runtime.ops.rows.packing import flatten

LAYERS, EPS = 3, 1e-6
SHAPES = {  # heads, kv heads, head dim, model dim, intermediate size, QK-norm
    "tte_tiny": (6, 2, 32, 192, 512, False),
    "llama": (9, 3, 64, 96, 200, False),
    "qwen3": (4, 1, 128, 64, 96, True),
    "one_head_each": (2, 2, 32, 48, 40, False),
}
LENGTHS = {"one": (37,), "first": (1,), "odd": (1, 16, 17), "seven": (5, 130, 64, 33, 2, 1, 250)}


def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(*shape) * scale


def stack_of(shape: str, ops: TorchOps, *, exact: bool) -> LayerStack:
    heads, kv_heads, dim, width, inner, qk_norm = SHAPES[shape]
    outer = (heads + 2 * kv_heads) * dim
    rope = RopeSpec(tuple(10000.0 ** (-i / (dim // 2)) for i in range(dim // 2)), (0,) * (dim // 2), 1.1)
    spec = DecoderSpec(
        LAYERS, width, heads, kv_heads, dim, inner, 60, EPS, rope, True, qk_norm, 0, True, 512
    )  # fmt: skip

    def matrix(rows: int, columns: int) -> Any:
        weight = random(rows, columns, scale=columns**-0.5)
        return ops.pack(weight.bfloat16().float() if exact else weight)

    def vector(size: int, around: float) -> torch.Tensor:
        return around + random(size, scale=0.1)

    layers = [
        LayerWeights(
            input_norm=vector(width, 1.0),
            qkv=matrix(outer, width),
            qkv_bias=vector(outer, 0.0) if shape != "llama" else None,
            q_norm=vector(dim, 1.0) if qk_norm else None,
            k_norm=vector(dim, 1.0) if qk_norm else None,
            out=matrix(width, heads * dim),
            post_norm=vector(width, 1.0),
            gate_up=matrix(2 * inner, width),
            down=matrix(width, inner),
        )
        for _ in range(LAYERS)
    ]
    return LayerStack(spec, layers, ops)


def layout_of(lengths: tuple[int, ...]) -> tuple[StepLayout, int]:
    """Rows of these lengths, their pages in no order."""
    counts = [-(-length // 16) for length in lengths]
    order = (1 + torch.randperm(sum(counts))).split(counts)
    table = torch.zeros(len(lengths), max(counts) + 1, dtype=torch.int32)
    for row, pages in enumerate(order):
        table[row, : len(pages)] = pages
    last = [(int(pages[-1]), (length - 1) % 16) for pages, length in zip(order, lengths, strict=True)]
    layout = StepLayout(
        decode=True,
        slots=torch.tensor([page * 16 + offset for page, offset in last]),
        page_table=table,
        cu_seqlens=torch.arange(len(lengths) + 1, dtype=torch.int32),
        kv_lens=torch.tensor(lengths, dtype=torch.int32),
        query_lens_host=(1,) * len(lengths),
        kv_lens_host=lengths,
    )
    return layout, 1 + sum(counts)


def kept_pages(stack: LayerStack, layout: StepLayout, num_pages: int, dtype: torch.dtype) -> torch.Tensor:
    """Earlier tokens' keys and values, NaN in every slot that no row has written."""
    spec = stack.spec
    pages = torch.full((LAYERS, 2, num_pages, spec.num_kv_heads, 16, spec.head_dim), float("nan"), dtype=dtype)
    for row, length in enumerate(layout.kv_lens_host):
        for token in range(length - 1):
            page = int(layout.page_table[row, token // 16])
            pages[:, :, page, :, token % 16] = random(LAYERS, 2, spec.num_kv_heads, spec.head_dim).to(dtype)
    return pages


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize(("shape", "exact"), [(name, name != "llama") for name in SHAPES])
@torch.inference_mode()
def test_a_compiled_step_is_the_layers_in_torch(
    shape: str, exact: bool, lengths: tuple[int, ...], threads: int
) -> None:
    torch.manual_seed(0)
    torch_ops, ops = TorchOps(), NumbaOps(threads)
    stack = stack_of(shape, torch_ops, exact=exact)
    assert flatten(stack.layers).matrices.itemsize == (2 if exact else 4), "weights that are bfloat16 take 16 bits"
    spec = stack.spec
    fused = ops.fuse(stack.layers, spec, stack.rope.inv_freq, 1.1)
    layout, num_pages = layout_of(lengths)
    hidden, positions = random(len(lengths), spec.hidden_size), torch.tensor(lengths) + 3
    theirs = kept_pages(stack, layout, num_pages, torch.float32)
    ours = theirs.clone()
    tapped = [torch.zeros(num_pages * 16, spec.hidden_size) for _ in range(2)]
    wanted = stack.forward(hidden, positions.expand(3, -1), layout, theirs, Taps(2, tapped[0]))
    before = hidden.clone()
    got = fused.forward(hidden, positions, layout, ours, (2, tapped[1]), None)
    assert torch.equal(hidden, before), "the input is the caller's"
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4, equal_nan=True)
    torch.testing.assert_close(tapped[1], tapped[0], rtol=1e-4, atol=1e-4)
    shallow = fused.forward(hidden, positions, layout, ours, (1, tapped[1]), 1)
    torch.testing.assert_close(
        shallow, stack.forward(hidden, positions.expand(3, -1), layout, theirs, depth=1), rtol=1e-4, atol=1e-4
    )


@torch.inference_mode()
def test_pages_in_bfloat16_are_read_and_written_as_torch_rounds_them() -> None:
    torch.manual_seed(1)
    stack = stack_of("tte_tiny", TorchOps(), exact=True)
    fused = NumbaOps(1).fuse(stack.layers, stack.spec, stack.rope.inv_freq, 1.1)
    layout, num_pages = layout_of((37, 20))
    pages = kept_pages(stack, layout, num_pages, torch.bfloat16)
    wide = pages.float()
    hidden, positions = random(2, 192), torch.tensor([36, 19])
    got = fused.forward(hidden, positions, layout, pages, None, 1)
    wanted = fused.forward(hidden, positions, layout, wide, None, 1)
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-2)  # the new token's own keys and values are rounded
    written = (slice(None), layout.slots // 16, slice(None), layout.slots % 16)
    assert torch.equal(pages[0][written], wide[0][written].bfloat16())


def test_gates_of_any_size_are_silu() -> None:
    """Beyond the range of float32's exponent, too: exp(120) is none, and silu(-120) is next to nothing."""
    from tte_runtime.ops.rows.compiled import _gate

    gates = torch.cat([torch.linspace(-20, 20, 4001), torch.tensor([-300.0, -120.0, -90.0, -88.0, 88.0, 300.0])])
    out = np.empty((1, len(gates)), np.float32)
    _gate(torch.cat([gates, torch.ones_like(gates)]).numpy()[None], 0, len(gates), out)
    torch.testing.assert_close(torch.from_numpy(out[0]), F.silu(gates), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("exact", [True, False])
@torch.inference_mode()
def test_the_likeliest_token_is_the_lowest_of_equal_ones(exact: bool) -> None:
    torch.manual_seed(2)
    weight = random(60, 96).bfloat16().float() if exact else random(60, 96)
    weight[41] = weight[7]
    hidden, norm = torch.cat([weight[7:8], random(4, 96)]), torch.ones(96)
    ops, plain = NumbaOps(2), TorchOps()
    scores = ops.pack_output(weight).scores(hidden, norm, EPS)
    wanted = plain.rms_norm(hidden, norm, EPS) @ weight.T
    torch.testing.assert_close(torch.from_numpy(scores), wanted, rtol=1e-4, atol=1e-4)
    assert ops.pack_output(weight).likeliest(hidden, norm, EPS).tolist() == wanted.argmax(-1).tolist()
    assert int(wanted[0].argmax()) == 7
