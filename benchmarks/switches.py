"""Techniques of the runtime, each with the smallest honest way to do without it, and work on which it can matter.

Where the product has an option, the option is used. Where it has none, what is here stands in for the code that would
be there without the technique; it is part of the benchmark and of nothing else. Knows the runtime; measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.shapes import Shape
from benchmarks.ways import ROLE, Runtime
from benchmarks.workload import make_batch
from tte_runtime import loading
from tte_runtime.config import EngineConfig
from tte_runtime.engine.runner import Runner
from tte_runtime.inputs.pixel_table import PixelTable
from tte_runtime.models import vision
from tte_runtime.models.spec import DecoderSpec
from tte_runtime.ops import TorchOps, select_ops, torch_ops
from tte_runtime.ops.matrices import Dense, Matrix, pack_matrix
from tte_runtime.types import Think

__all__ = ["LONG", "SWITCHES", "Switch", "Work"]

LONG = 320  # tokens that a long instruction takes at most
INSTRUCTION = "answer about the board as it is shown, count from the left, and name the thing that is asked for. " * 8

Embed = Callable[[Runtime, list[Any], Think | None], list[Any]]


def _together(runtime: Runtime, batch: list[Any], think: Think | None) -> list[Any]:
    return list(runtime.embedder.embed(batch, role=ROLE, think=think or False))


def _in_turn(runtime: Runtime, batch: list[Any], think: Think | None) -> list[Any]:
    return [runtime.embedder.embed(item, role=ROLE, think=think or False) for item in batch]


def _twice(runtime: Runtime, batch: list[Any], think: Think | None) -> list[Any]:
    """Two passes in this engine: write the trace, forget everything, then read prompt and trace from the start."""
    written = _together(runtime, batch, think)
    runtime.embedder.clear_caches()
    with runtime.steering.given(batch, [tuple(result.trace_ids) for result in written], as_prompt=True):
        read = _together(runtime, batch, None)
    return [_With(result.vector, trace.trace_ids) for result, trace in zip(read, written, strict=True)]


def _step_by_step(runtime: Runtime, batch: list[Any], think: Think | None) -> list[Any]:
    """Every decode step is a call of its own."""
    with patch.object(Runner, "_longest_walk", lambda *_: 1):
        return _together(runtime, batch, think)


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


def _instructed(shape: Shape, image: int) -> list[Any]:
    """The instruction stands in the text, in front of the question: the bundled recipe has no other place for one."""
    return [item | {"text": INSTRUCTION + item["text"]} for item in _one_board(shape, image)]


def _both_orders(shape: Shape, image: int) -> list[Any]:
    batch = make_batch(shape, image, 2)
    first, second = (item["image"] for item in batch)
    pairs = ([first, second], [second, first])
    return [{"text": item["text"], "images": pair} for item, pair in zip(batch, pairs, strict=True)]


ONE = Work("one request", _questions)
MANY = Work("8 requests at once", _eight)
BOARD = Work("4 questions about one picture, one after another", _one_board, _in_turn)
LONG_BOARD = Work("4 questions about one picture behind a long instruction, one after another", _instructed, _in_turn)
ORDERS = Work("2 pictures in one order, then in the other", _both_orders, _in_turn)


@dataclass(frozen=True)
class Switch:
    """A technique.

    Attributes:
        name: for tables. work: where it can matter.
        off: options of an engine without it. embed: how work is handed to that engine; `None` as to the other.
        loading: a context in which an engine without it is loaded.
        needs: "" where it can be switched here, given a resolved config, or why not.
    """

    name: str
    work: Work
    off: dict[str, Any] = field(default_factory=dict)
    embed: Embed | None = None
    loading: Callable[[DecoderSpec], AbstractContextManager[Any]] = lambda spec: nullcontext()
    needs: Callable[[EngineConfig], str] = lambda config: ""


class Unmerged:
    """A merged matrix as products of its own for every part; see `tte_runtime.ops.matrices.Matrix`."""

    def __init__(self, parts: Sequence[Matrix], rows: Sequence[int]) -> None:
        self._parts, self._rows = parts, list(rows)

    def times(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """One product a part."""
        biases = bias.split(self._rows) if bias is not None else [None] * len(self._rows)
        return torch.cat([part.times(x, own) for part, own in zip(self._parts, biases, strict=True)], dim=-1)

    def times_plus(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """As `times`, added."""
        return residual + self.times(x)


def _unmerged(spec: DecoderSpec) -> AbstractContextManager[Any]:
    """q, k, v, gate and up are packed one by one."""
    merged = {
        spec.qkv_size: [spec.num_heads * spec.head_dim, *[spec.num_kv_heads * spec.head_dim] * 2],
        2 * spec.intermediate_size: [spec.intermediate_size] * 2,
    }

    def pack(weight: torch.Tensor, weights: str) -> Matrix:
        rows = merged.get(weight.shape[0])
        if rows is None:
            return pack_matrix(weight, weights)
        return Unmerged([pack_matrix(part.contiguous(), weights) for part in weight.split(rows)], rows)

    return patch.object(torch_ops, "pack_matrix", pack)


def _unpacked(spec: DecoderSpec) -> AbstractContextManager[Any]:
    return patch.object(torch_ops, "pack_matrix", lambda weight, weights: Dense(weight))


def _own_blocks(spec: DecoderSpec) -> AbstractContextManager[Any]:
    """A tower's blocks are transformers' modules, with packed products."""
    return patch.multiple(vision, fuse_tower=lambda tower, ops: None, fuse_blocks=lambda tower, ops: None)


def _own_tower(spec: DecoderSpec) -> AbstractContextManager[Any]:
    """A tower is transformers' module, each of its blocks one call."""
    return patch.object(vision, "fuse_tower", lambda tower, ops: None)


def _own_pixels(spec: DecoderSpec) -> AbstractContextManager[Any]:
    """Pictures go through the checkpoint's processor."""
    return patch.object(PixelTable, "learn", lambda processor: None)


def _through_torch(name: str) -> Callable[[DecoderSpec], AbstractContextManager[Any]]:
    """The kernels' backend is loaded with one of its methods in plain torch, on weights as they were before packing."""

    def load_with(config: EngineConfig, **shape: int) -> TorchOps:
        ops, plain = select_ops(config, **shape), getattr(TorchOps(), name)

        def method(*arguments: Any, **options: Any) -> Any:
            return plain(*(Dense(one.dense) if hasattr(one, "dense") else one for one in arguments), **options)

        setattr(ops, name, method)
        return ops

    return lambda spec: patch.object(loading, "select_ops", load_with)


def _torch(config: EngineConfig) -> str:
    reason = f"a form of the torch backend's weights, and kernels={config.kernels} runs here"
    return "" if config.kernels == "torch" else reason


def _numba(config: EngineConfig) -> str:
    return "" if config.kernels == "numba" else "steps are compiled by Numba on a CPU"


def _kernels(config: EngineConfig) -> str:
    return "" if config.kernels == "triton" else "kernels run on a GPU; every op is plain torch here"


def _threads(config: EngineConfig) -> str:
    return "" if config.device == "cpu" and config.threads != 1 else "one thread is all that runs here"


def _gpu(config: EngineConfig) -> str:
    return "" if config.device.startswith("cuda") else "needs a GPU"


FUSED = ("norm_linear", "norm_swiglu", "linear_residual", "rope_write_kv", "attention", "next_tokens", "pool_normalize")
SWITCHES = (
    Switch("one pass", ONE, embed=_twice),
    Switch("prefix cache", BOARD, off={"prefix_cache": False}),
    Switch("prefix cache, long prompts", LONG_BOARD, off={"prefix_cache": False}),
    Switch("vision cache", ORDERS, off={"vision_cache_mb": 0}),
    Switch("continuous batching", MANY, off={"max_batch_size": 1}),
    Switch("compiled steps", ONE, off={"kernels": "torch"}, needs=_numba),
    Switch("several steps a call", ONE, embed=_step_by_step, needs=_numba),
    Switch("a whole tower in one call", ONE, loading=_own_tower, needs=_numba),
    Switch("a tower, or its blocks, in one call", ONE, loading=_own_blocks, needs=_numba),
    Switch("pictures by a table", ONE, loading=_own_pixels),
    Switch("merged weights", ONE, loading=_unmerged, needs=_torch),
    Switch("packed weights", ONE, loading=_unpacked, needs=_torch),
    # Within noise on tte-tiny: half the layers of the two or three tokens behind a trace. It stays for deep backbones,
    # whose layers above the tap each read weights from memory, and costs one property and one branch.
    Switch("more than one thread", MANY, off={"threads": 1}, needs=_threads),
    Switch("steps that overlap", ONE, off={"overlap": False}, needs=_gpu),
    Switch("CUDA graphs", ONE, off={"cuda_graphs": False}, needs=_gpu),
    *(Switch(f"kernels of {name}", ONE, loading=_through_torch(name), needs=_kernels) for name in FUSED),
)
