"""Techniques of the runtime, each with the smallest honest way to do without it, and work on which it can matter.

Where the product has an option, the option is used. Where it has none, what is here stands in for the code that would be
there without the technique; it is part of the benchmark and of nothing else. Knows the runtime; measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Literal
from unittest.mock import patch

import torch
import torch.nn.functional as F

from benchmarks.shapes import Shape
from benchmarks.ways import ROLE, Runtime
from benchmarks.workload import make_batch
from tte_runtime.config import EngineConfig
from tte_runtime.engine.sequence import Sequence
from tte_runtime.models.spec import DecoderSpec
from tte_runtime.ops import StepLayout, TorchOps
from tte_runtime.types import Think

__all__ = ["SWITCHES", "Switch", "Work"]

Embed = Callable[[Runtime, list[Any], Think | None], list[Any]]


def _together(runtime: Runtime, batch: list[Any], think: Think | None) -> list[Any]:
    return list(runtime.embedder.embed(batch, role=ROLE, think=think or False))


def _in_turn(runtime: Runtime, batch: list[Any], think: Think | None) -> list[Any]:
    return [runtime.embedder.embed(item, role=ROLE, think=think or False) for item in batch]


def _twice(runtime: Runtime, batch: list[Any], think: Think | None) -> list[Any]:
    """Two passes in this engine: write the trace, forget everything, then read prompt and trace from the start."""
    written = _together(runtime, batch, think)
    runtime.embedder.clear_caches()
    with runtime.steering.reread(batch, [tuple(result.trace_ids) for result in written]):
        read = _together(runtime, batch, None)
    return [_With(result.vector, trace.trace_ids) for result, trace in zip(read, written, strict=True)]


@dataclass(frozen=True, eq=False)
class _With:
    vector: Any
    trace_ids: tuple[int, ...]


@dataclass(frozen=True)
class Work:
    """What is embedded to see a technique: made from a shape, and how it is handed over."""

    words: str
    items: Callable[[Shape, int], list[Any]]
    embed: Embed = _together


def _questions(shape: Shape, image: int) -> list[Any]:
    return make_batch(shape, image, 1)


def _eight(shape: Shape, image: int) -> list[Any]:
    return make_batch(shape, image, 8)


def _one_board(shape: Shape, image: int) -> list[Any]:
    batch = make_batch(shape, image, 4)
    return [item | {"image": batch[0]["image"]} for item in batch]


def _both_orders(shape: Shape, image: int) -> list[Any]:
    batch = make_batch(shape, image, 2)
    first, second = (item["image"] for item in batch)
    pairs = ([first, second], [second, first])
    return [{"text": item["text"], "images": pair} for item, pair in zip(batch, pairs, strict=True)]


ONE = Work("one request", _questions)
MANY = Work("8 requests at once", _eight)
BOARD = Work("4 questions about one picture, one after another", _one_board, _in_turn)
ORDERS = Work("2 pictures in one order, then in the other", _both_orders, _in_turn)


@dataclass(frozen=True)
class Switch:
    """A technique.

    Attributes:
        name: for tables. work: where it can matter.
        off: options of an engine without it. embed: how work is done without it.
        patched: what is replaced while it is off: runtime -> a context.
        needs: "" where it can be switched here, given a resolved config, or why not.
    """

    name: str
    work: Work
    off: dict[str, Any] = field(default_factory=dict)
    embed: Embed | None = None
    patched: Callable[[Runtime], Any] | None = None
    needs: Callable[[EngineConfig], str] = lambda config: ""


class UnmergedOps(TorchOps):
    """q, k, v, gate and up as products of their own, over the rows of the merged matrices."""

    def __init__(self, spec: DecoderSpec) -> None:
        self._rows = [spec.num_heads * spec.head_dim, *[spec.num_kv_heads * spec.head_dim] * 2]

    def norm_linear(
        self,
        hidden: torch.Tensor,
        norm: torch.Tensor,
        eps: float,
        weight: Any,
        bias: torch.Tensor | None,
        layout: StepLayout,
    ) -> torch.Tensor:
        """Three products instead of one."""
        normed = self.rms_norm(hidden, norm, eps)
        biases = bias.split(self._rows) if bias is not None else [None] * 3
        return torch.cat([F.linear(normed, w, b) for w, b in zip(weight.split(self._rows), biases, strict=True)], -1)

    def norm_swiglu(
        self, hidden: torch.Tensor, norm: torch.Tensor, eps: float, gate_up: Any, layout: StepLayout
    ) -> torch.Tensor:
        """Two products instead of one."""
        normed = self.rms_norm(hidden, norm, eps)
        gate, up = (F.linear(normed, half) for half in gate_up.chunk(2))
        return F.silu(gate) * up


@contextmanager
def _with_ops(runtime: Runtime, ops: TorchOps) -> Iterator[None]:
    engine = runtime.pipeline.engine
    stacks = [engine.decoder, *([engine.head.stack] if engine.head else [])]
    before = [stack.ops for stack in stacks]
    for stack in stacks:
        stack.ops = ops
    try:
        yield
    finally:
        for stack, old in zip(stacks, before, strict=True):
            stack.ops = old


def _unmerged(runtime: Runtime) -> Any:
    return _with_ops(runtime, UnmergedOps(runtime.pipeline.engine.decoder.spec))


def _full_depth(runtime: Runtime) -> Any:
    return patch.object(Sequence, "only_tapped", property(lambda sequence: False))


def _torch_method(name: str) -> Callable[[Runtime], Any]:
    """The backend with one of its methods in plain torch, on the weights as they were before packing."""

    def patched(runtime: Runtime) -> Any:
        ops = runtime.pipeline.engine.decoder.ops
        plain = getattr(TorchOps(), name)

        def dense(value: Any) -> Any:
            return getattr(value, "dense", value)

        def method(*arguments: Any, **options: Any) -> Any:
            return plain(*map(dense, arguments), **options)

        return patch.object(ops, name, method)

    return patched


def _dense_torch(config: EngineConfig) -> str:
    if config.kernels != "torch":
        return "the kernels' packed weights have no rows to take apart; measured on kernels=torch"
    return ""


def _kernels(config: EngineConfig) -> str:
    return "" if config.kernels == "triton" else "fused kernels run on a GPU; here every op is plain torch already"


def _graphs(config: EngineConfig) -> str:
    if not config.device.startswith("cuda"):
        return "CUDA graphs need a GPU"
    return "" if GRAPHS in {one.name for one in fields(config)} else "this version of the engine captures no graphs"


GRAPHS = "graphs"
FUSED = ("norm_linear", "norm_swiglu", "linear_residual", "rope_write_kv", "attention", "next_tokens", "pool_normalize")
SWITCHES = (
    Switch("one pass", ONE, embed=_twice),
    Switch("prefix cache", BOARD, off={"prefix_cache": False}),
    Switch("vision cache", ORDERS, off={"vision_cache_mb": 0}),
    Switch("continuous batching", MANY, off={"max_batch_size": 1}),
    Switch("merged weights", ONE, patched=_unmerged, needs=_dense_torch),
    Switch("last tokens stop at the tap", ONE, patched=_full_depth),
    Switch("graphs", ONE, off={GRAPHS: False}, needs=_graphs),
    *(Switch(f"fused {name}", ONE, patched=_torch_method(name), needs=_kernels) for name in FUSED),
)
State = Literal["on", "off"]
