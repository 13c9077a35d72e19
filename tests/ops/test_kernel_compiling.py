"""torch.compile and torch.export pass over the custom operators: one node each in the graph, the same results after it.

A decoder layer's worth of them at once, on the prefill path, and each op by itself. Knows no model.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from kernel_harness import DEVICE

import tte_kernels as tk
from tte_kernels._case import Case, Op
from tte_kernels._compare import as_tuple, equal_bits
from tte_kernels.registry import OPS

TOKENS, HEADS, KV_HEADS, DIM = 5, 4, 2, 32
WIDTH = HEADS * DIM


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).to(DEVICE)


class Layer(torch.nn.Module):
    """Norm, QKV, rotary and pages, attention, projections, SwiGLU, and the vector of the last token."""

    def __init__(self) -> None:
        super().__init__()
        shapes = {"qkv": (WIDTH + 2 * KV_HEADS * DIM, WIDTH), "out": (WIDTH, WIDTH), "gate_up": (128, WIDTH)}
        for seed, (name, shape) in enumerate({**shapes, "down": (WIDTH, 64)}.items()):
            self.register_buffer(name, random(*shape, seed=seed, scale=shape[1] ** -0.5))
        self.register_buffer("norm", 1 + random(WIDTH, seed=9, scale=0.1))

    def forward(self, x: torch.Tensor, angles: torch.Tensor, pages: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
        starts, table = torch.nn.functional.pad(lens, (1, 0)), torch.ones(1, 1, dtype=torch.int32, device=x.device)
        slots = 16 + torch.arange(TOKENS, device=x.device)
        qkv = tk.linear(tk.rms_norm(x, self.norm, 1e-6)[0], self.qkv)
        q = tk.rope_write_kv(qkv, angles.cos(), angles.sin(), pages, slots, num_heads=HEADS)
        mixed = tk.extend_attention(q, pages, table, starts, lens, scale=DIM**-0.5, max_query_len=TOKENS)
        x = tk.linear(mixed.flatten(1), self.out, residual=x)
        gated = tk.linear(tk.rms_norm(x, self.norm, 1e-6)[0], self.gate_up, swiglu=True)
        x = tk.linear(gated, self.down, residual=x)
        return tk.pool_normalize(x, starts, norm_weight=self.norm, dim=64)


def layer_inputs() -> tuple[torch.Tensor, ...]:
    lens = torch.tensor([TOKENS], dtype=torch.int32, device=DEVICE)
    return (
        random(TOKENS, WIDTH),
        random(TOKENS, DIM // 2, seed=1),
        torch.zeros(2, 2, KV_HEADS, 16, DIM).to(DEVICE),
        lens,
    )


NODES = {"rms_norm": 2, "linear": 4, "rope_write_kv": 1, "extend_attention": 1, "pool_normalize": 1}


def counted(graph: torch.fx.Graph) -> dict[str, int]:
    """How often each of our operators stands in the graph."""
    found: dict[str, int] = {}
    for node in graph.nodes:
        namespace, _, name = str(node.target).partition(".")
        if node.op == "call_function" and namespace == "tte":
            name = name.removesuffix(".default")
            found[name] = found.get(name, 0) + 1
    return found


def test_a_layer_compiles_whole() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    layer, inputs = Layer(), layer_inputs()
    want = layer(*inputs)
    compiled = torch.compile(layer, backend=keep, fullgraph=True)
    assert equal_bits(compiled(*layer_inputs()), want)
    assert counted(graphs[0].graph) == NODES
    functional = torch.compile(layer, backend="aot_eager", fullgraph=True)  # through fakes and functionalisation
    again = layer_inputs()
    assert equal_bits(functional(*again), want)
    assert equal_bits(again[2], inputs[2]), "the pages that an operator writes are written in the compiled layer too"


def test_a_layer_exports() -> None:
    layer, inputs = Layer(), layer_inputs()
    want = layer(*inputs)
    exported = torch.export.export(layer, layer_inputs())
    assert counted(exported.graph) == NODES
    assert equal_bits(exported.module()(*layer_inputs()), want)


def smallest(op: Op) -> Case:
    """The smallest case that is not empty."""
    filled = [case for case in op.cases if case.tag == "ci" and min(case.dims.values()) > 0]
    return min(filled, key=lambda case: math.prod(case.dims.values()))


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_every_op_compiles_alone(op: Op) -> None:
    case = smallest(op)
    want = as_tuple(op.fn(**case.make_inputs(0, DEVICE, torch.float32)))
    compiled = torch.compile(op.fn, backend="aot_eager", fullgraph=True)
    got = as_tuple(compiled(**case.make_inputs(0, DEVICE, torch.float32)))
    assert all(equal_bits(left, right) for left, right in zip(got, want, strict=True))


@pytest.mark.parametrize("dynamic", [None, True], ids=["as-sizes-change", "dynamic"])
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_every_op_compiles_for_any_number_of_rows(op: Op, dynamic: bool | None) -> None:
    """The second size makes sizes symbols, on which no check may fail that passes on numbers."""
    assert op.num_rows is not None and op.take_rows is not None
    torch._dynamo.reset()  # every size is new
    compiled = torch.compile(op.fn, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    # Some cases have one row only; rows may be taken twice.
    inputs = smallest(op).make_inputs(0, DEVICE, torch.float32)
    count = op.num_rows(inputs)
    for rows in (3, 5, 8):
        keep = [row % count for row in range(rows)]
        want = as_tuple(op.fn(**op.take_rows(inputs, keep)))
        got = as_tuple(compiled(**op.take_rows(inputs, keep)))
        assert all(equal_bits(left, right) for left, right in zip(got, want, strict=True)), rows


@pytest.mark.parametrize("dynamic", [None, True], ids=["as-sizes-change", "dynamic"])
def test_draws_from_logits_compile_for_any_number_of_rows(dynamic: bool | None) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(tk.sample_logits, backend="eager", fullgraph=True, dynamic=dynamic)
    for rows in (3, 5, 8):
        seed, position, trace, top_k = (torch.arange(rows, device=DEVICE) for _ in range(4))
        temperature, top_p = (torch.full((rows,), value, device=DEVICE) for value in (0.7, 0.9))
        stop_ids = torch.arange(2 * rows, device=DEVICE).view(rows, 2)
        inputs = (random(rows, 11), temperature, seed, position, trace, stop_ids, top_k, top_p)
        assert torch.equal(compiled(*inputs), tk.sample_logits(*inputs))
