"""Compiled steps against the same layers in plain torch: rows and prompts, every flag, rubbish in pages; and equal bits
whoever a row is computed beside, on however many threads, in however many chunks.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tte_runtime.models.layers import Ends, LayerStack, LayerWeights, Taps
from tte_runtime.models.rope import RopeSpec
from tte_runtime.models.spec import DecoderSpec
from tte_runtime.ops import StepLayout, TorchOps
from tte_runtime.ops.matrices import Int8
from tte_runtime.ops.numba_ops import NumbaOps
from tte_runtime.ops.rows.packing import pack_layers
from tte_runtime.ops.rows.values import gate

LAYERS, EPS = 3, 1e-6
SHAPES = {  # heads, kv heads, head dim, model dim, intermediate size, QK-norm
    "tte_tiny": (6, 2, 32, 192, 512, False),
    "llama": (9, 3, 64, 96, 200, False),
    "qwen3": (4, 1, 128, 64, 96, True),
    "one_head_each": (2, 2, 32, 48, 40, False),
}
every_shape = pytest.mark.parametrize(("shape", "exact"), [(name, name != "llama") for name in SHAPES])
LENGTHS = {"one": (37,), "first": (1,), "odd": (1, 16, 17), "seven": (5, 130, 64, 33, 2, 1, 250)}


def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(*shape) * scale


def stack_of(shape: str, ops: TorchOps, *, exact: bool) -> LayerStack:
    heads, kv_heads, dim, width, inner, qk_norm = SHAPES[shape]
    outer = (heads + 2 * kv_heads) * dim
    rope = RopeSpec(
        tuple(10000.0 ** (-i / (dim // 2)) for i in range(dim // 2)), tuple(i % 3 for i in range(dim // 2)), 1.1
    )
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
    return LayerStack(spec, layers, ops, decodes=True)


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
@every_shape
@torch.inference_mode()
def test_a_compiled_step_is_the_layers_in_torch(
    shape: str, exact: bool, lengths: tuple[int, ...], threads: int
) -> None:
    torch.manual_seed(0)
    torch_ops, ops = TorchOps(), NumbaOps(threads)
    stack = stack_of(shape, torch_ops, exact=exact)
    assert pack_layers(stack.layers, "w16").matrices.itemsize == (2 if exact else 4), (
        "weights that are bfloat16 take 16 bits"
    )
    spec = stack.spec
    fused = ops.fuse(stack.layers, spec, stack.rope, decodes=True)
    assert fused is not None
    layout, num_pages = layout_of(lengths)
    hidden, positions = random(len(lengths), spec.hidden_size), (torch.tensor(lengths) + 3).expand(3, -1)
    theirs = kept_pages(stack, layout, num_pages, torch.float32)
    ours = theirs.clone()
    tapped = [torch.zeros(num_pages * 16, spec.hidden_size) for _ in range(2)]
    wanted = stack.forward(hidden, positions, layout, theirs, Taps(2, tapped[0]))
    before = hidden.clone()
    got = fused.forward(hidden, positions, layout, ours, (2, tapped[1]))
    assert torch.equal(hidden, before), "the input is the caller's"
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4, equal_nan=True)
    torch.testing.assert_close(tapped[1], tapped[0], rtol=1e-4, atol=1e-4)


PROMPTS = {"one": ((40, 40),), "chunk": ((1, 17), (30, 95)), "several": ((7, 7), (70, 85), (1, 1), (130, 130))}


def prompts_of(sizes: tuple[tuple[int, int], ...]) -> tuple[StepLayout, int]:
    """Prompts with so many new tokens each, of so many in all; their pages in no order."""
    lengths = tuple(length for _, length in sizes)
    rows, num_pages = layout_of(lengths)
    slots = [
        int(rows.page_table[index, token // 16]) * 16 + token % 16
        for index, (new, length) in enumerate(sizes)
        for token in range(length - new, length)
    ]
    news = tuple(new for new, _ in sizes)
    bounds = torch.tensor([0, *itertools.accumulate(news)], dtype=torch.int32)
    return replace(
        rows, decode=False, slots=torch.tensor(slots), cu_seqlens=bounds, query_lens_host=news
    ), num_pages  # fmt: skip


def pages_before(stack: LayerStack, layout: StepLayout, num_pages: int) -> torch.Tensor:
    """Keys and values of what came before the new tokens, NaN elsewhere."""
    pages = torch.full((LAYERS, 2, num_pages, stack.spec.num_kv_heads, 16, stack.spec.head_dim), float("nan"))
    for row, (new, length) in enumerate(zip(layout.query_lens_host, layout.kv_lens_host, strict=True)):
        for token in range(length - new):
            page = int(layout.page_table[row, token // 16])
            pages[:, :, page, :, token % 16] = random(LAYERS, 2, stack.spec.num_kv_heads, stack.spec.head_dim)
    return pages


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("sizes", PROMPTS.values(), ids=PROMPTS)
@every_shape
@torch.inference_mode()
def test_compiled_prompts_are_the_layers_in_torch(
    shape: str, exact: bool, sizes: tuple[tuple[int, int], ...], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("WORTH_DIVIDING", "WORTH_SHARING"):
        monkeypatch.setattr(f"tte_runtime.ops.rows.team.{limit}", 0)
    torch.manual_seed(3)
    stack = stack_of(shape, TorchOps(), exact=exact)
    fused = NumbaOps(threads).fuse(stack.layers, stack.spec, stack.rope, decodes=False)
    assert fused is not None
    layout, num_pages = prompts_of(sizes)
    rows = len(layout.slots)
    hidden, positions = random(rows, stack.spec.hidden_size), torch.randint(0, 200, (3, rows))
    deepstack = random(2, rows, stack.spec.hidden_size)
    theirs = pages_before(stack, layout, num_pages)
    ours = theirs.clone()
    tapped = [torch.zeros(num_pages * 16, stack.spec.hidden_size) for _ in range(2)]
    wanted = stack.forward(hidden, positions, layout, theirs, Taps(1, tapped[0]), deepstack)
    got = fused.forward(hidden, positions, layout, ours, (1, tapped[1]), deepstack)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4, equal_nan=True)
    torch.testing.assert_close(tapped[1], tapped[0], rtol=1e-4, atol=1e-4)
    ends = layout.cu_seqlens[1:].long() - 1
    assert torch.equal(
        fused.forward(hidden, positions, layout, ours, ends=ends), fused.forward(hidden, positions, layout, ours)[ends]
    )


@pytest.mark.skipif("fbgemm" not in torch.backends.quantized.supported_engines, reason="needs torch with fbgemm (x86)")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", ["tte_tiny", "llama"])
@torch.inference_mode()
def test_layers_of_8_bits_are_those_of_torch(shape: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Near, as sums are rounded at other places and a code on an edge may fall to either side of it."""
    monkeypatch.setattr("tte_runtime.ops.rows.team.WORTH_DIVIDING", 0)
    torch.manual_seed(4)
    exact = stack_of(shape, TorchOps(), exact=False)
    names = ("qkv", "out", "gate_up", "down")
    in_codes = [replace(w, **{name: Int8(getattr(w, name).weight) for name in names}) for w in exact.layers]
    plain = LayerStack(exact.spec, in_codes, TorchOps("w8a8"))
    fused = NumbaOps(threads, weights="w8a8").fuse(exact.layers, exact.spec, exact.rope, decodes=True)
    assert fused is not None
    for (layout, num_pages), step in ((prompts_of(PROMPTS["several"]), 1), (layout_of(LENGTHS["seven"]), 2)):
        rows = len(layout.slots)
        hidden, positions = random(rows, exact.spec.hidden_size), torch.randint(0, 200, (3, rows))
        before = pages_before(exact, layout, num_pages)
        got, wanted, whole = (one.forward(hidden, positions, layout, before.clone()) for one in (fused, plain, exact))
        assert (got - wanted).norm() < 0.01 * wanted.norm(), step
        assert 0 < (got - whole).norm() < 0.05 * whole.norm(), step


@torch.inference_mode()
def test_prompts_do_not_wait_for_a_helper_that_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tte_runtime.ops.rows.team.WORTH_SHARING", 0)
    stack = stack_of("tte_tiny", TorchOps(), exact=True)
    alone, helped = NumbaOps(1), NumbaOps(2)
    begun, wake = threading.Event(), threading.Event()
    helped._team.helpers().submit(lambda: (begun.set(), wake.wait(60)))
    assert begun.wait(60)
    layout, num_pages = prompts_of(((61, 61), (40, 40)))
    hidden, positions = random(101, stack.spec.hidden_size), torch.arange(101).expand(3, -1)
    pages = pages_before(stack, layout, num_pages)
    got = []
    for ops in (alone, helped):
        fused = ops.fuse(stack.layers, stack.spec, stack.rope, decodes=False)
        assert fused is not None
        got.append(fused.forward(hidden, positions, layout, pages.clone()))
    assert torch.equal(*got) and not wake.is_set()
    wake.set()


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_a_row_has_the_same_bits_beside_others_in_chunks_and_on_two_threads(
    shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("WORTH_DIVIDING", "WORTH_SHARING"):
        monkeypatch.setattr(f"tte_runtime.ops.rows.team.{limit}", 0)
    torch.manual_seed(4)
    stack = stack_of(shape, TorchOps(), exact=False)
    one, two = (NumbaOps(threads).fuse(stack.layers, stack.spec, stack.rope, decodes=True) for threads in (1, 2))
    assert one is not None and two is not None
    sizes = ((150, 150), (7, 7), (61, 61))
    layout, num_pages = prompts_of(sizes)
    rows = len(layout.slots)
    hidden, positions = random(rows, stack.spec.hidden_size), torch.arange(rows).expand(3, -1)
    pages = pages_before(stack, layout, num_pages)
    whole = one.forward(hidden, positions, layout, pages.clone())
    assert torch.equal(two.forward(hidden, positions, layout, pages.clone()), whole), "threads"
    chunked = pages.clone()
    for start, stop in ((0, 1), (1, 14), (14, 127), (127, 150)):
        part = replace(
            layout,
            slots=layout.slots[start:stop],
            page_table=layout.page_table[:1],
            cu_seqlens=torch.tensor([0, stop - start], dtype=torch.int32),
            kv_lens=torch.tensor([stop], dtype=torch.int32),
            query_lens_host=(stop - start,),
            kv_lens_host=(stop,),
        )
        got = two.forward(hidden[start:stop], positions[:, start:stop], part, chunked)
        assert torch.equal(got, whole[start:stop]), "alone, in chunks"


@torch.inference_mode()
def test_a_stack_of_prompts_keeps_no_second_copy_of_its_weights() -> None:
    stack = stack_of("tte_tiny", NumbaOps(1), exact=True)
    assert stack.layers == [] and stack.rows is not None and stack.depth == LAYERS
    layout, num_pages = prompts_of(((5, 5), (40, 40)))
    hidden, pages = random(45, 192), pages_before(stack, layout, num_pages)
    positions = torch.arange(45).expand(3, -1)
    ends = Ends(layout.cu_seqlens[1:].long() - 1, layout)
    picked = stack.forward(hidden, positions, layout, pages, ends=ends)
    assert torch.equal(picked, stack.forward(hidden, positions, layout, pages)[[4, 44]])


@torch.inference_mode()
def test_pages_in_bfloat16_are_read_and_written_as_torch_rounds_them() -> None:
    torch.manual_seed(1)
    stack = stack_of("tte_tiny", TorchOps(), exact=True)
    fused = NumbaOps(1).fuse(stack.layers, stack.spec, stack.rope, decodes=True)
    assert fused is not None
    layout, num_pages = layout_of((37, 20))
    pages = kept_pages(stack, layout, num_pages, torch.bfloat16)
    wide = pages.float()
    hidden, positions = random(2, 192), torch.tensor([36, 19]).expand(3, -1)
    got = fused.forward(hidden, positions, layout, pages)
    wanted = fused.forward(hidden, positions, layout, wide)
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-2)  # the new token's own keys and values are rounded
    written = (slice(None), layout.slots // 16, slice(None), layout.slots % 16)
    assert torch.equal(pages[0][written], wide[0][written].bfloat16())


def test_gates_of_any_size_are_silu() -> None:
    """Beyond the range of float32's exponent, too: exp(120) is none, and silu(-120) is next to nothing."""
    gates = torch.cat([torch.linspace(-20, 20, 4001), torch.tensor([-300.0, -120.0, -90.0, -88.0, 88.0, 300.0])])
    out = np.empty((1, len(gates)), np.float32)
    gate(torch.cat([gates, torch.ones_like(gates)]).numpy()[None], 1, 0, len(gates), out)
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
