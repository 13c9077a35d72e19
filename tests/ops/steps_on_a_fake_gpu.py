"""Runs engines on a GPU that is none, see `fake_gpu`, and prints what became of each; in a process of its own.

    python steps_on_a_fake_gpu.py FOLDER TTE_TINY

Every family of models, every head, every format of weights, every way to ask for a vector. What counts is that nothing
in a step asks the device for a value, waits for a copy, mixes devices, or launches what the compiler does not take.
"""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers
from checkpoints import TEXT_ONLY, WITH_TOWER, make_config, save, thinking
from engine_harness import Outcome, drive, render
from fake_gpu import FakeGpu, Waits, compiled_kinds, fake_gpu, launched_kind, watch_launches
from kernel_harness import HEAD_SIZES
from PIL import Image

from benchmarks.shapes import SHAPES, Shape
from tte_runtime import Embedder, EngineConfig
from tte_runtime.engine.engine import Engine
from tte_runtime.engine.graphs import DecodeGraphs
from tte_runtime.engine.request import EngineRequest, EngineResult, Readout, Sampling
from tte_runtime.heads.head import load_head
from tte_runtime.heads.reference import make_reference_head
from tte_runtime.heads.spec import KINDS, HeadSpec, sizes_of
from tte_runtime.models.decoder import Decoder
from tte_runtime.models.spec import decoder_spec
from tte_runtime.ops import select_ops

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (84, 112, 3), dtype=np.uint8))
ROOM: dict[str, Any] = {"device": "cuda", "max_context": 256, "kv_cache_tokens": 2048}
FILTERED = Sampling(temperature=0.8, top_k=5, top_p=0.9, seed=3)
OPTIONS: dict[str, dict[str, Any]] = {
    "one by one": {"overlap": False, "cuda_graphs": False},
    "not captured": {"cuda_graphs": False},
    "in chunks": {"max_prefill_tokens": 9},
    "preempting": {"kv_cache_tokens": 96, "max_context": 96, "prefix_cache": False},
    "w8a16": {"weights": "w8a16"},
    "w4a16": {"weights": "w4a16"},
    "dependent launches": {"pdl": True},
    "float16": {"dtype": "float16"},
    "float32": {"dtype": "float32"},
    "prompts by SDPA": {"attention": "sdpa"},
}
REAL = ("qwen2vl-2b", "qwen2vl-7b", "qwen3vl-2b")
FORMS: dict[str, dict[str, Any]] = {
    f"{weights} {dtype}{' pdl' if pdl else ''}": {"weights": weights, "dtype": dtype, "pdl": pdl}
    for weights in ("w16", "w8a16", "w4a16")
    for dtype, pdl in (("bfloat16", False), ("bfloat16", True), ("float16", False), ("float32", False))
}


def requests(embedder: Embedder, pictures: bool) -> list[EngineRequest]:
    """One of every kind."""
    first, second, third = (render(embedder, text, max_tokens=6) for text in ("one two three", "cat dog", "red car"))
    marker = first.prompt_ids[0]
    asked = [
        first,
        replace(first, max_trace_tokens=0),
        replace(second, sampling=Sampling(temperature=0.7, seed=1)),
        replace(third, sampling=FILTERED),
        replace(third, num_traces=3, sampling=Sampling(temperature=0.7)),
        replace(second, snapshot_every=2),
        replace(second, stop_ids=frozenset([0])),  # which is what is drawn here
    ]
    if first.readout.kind == "last":
        kinds = (Readout("mean"), Readout("marker", 2), Readout("generated_marker", marker_id=marker, dim=32))
        asked += [replace(third, readout=readout) for readout in kinds]
    if pictures:
        asked += [render(embedder, {"image": PICTURE, "text": text}, max_tokens=4) for text in ("what", "and")]
        asked.append(render(embedder, {"video": [PICTURE] * 4, "text": "what happens"}, max_tokens=0))
    return asked


def run(gpu: FakeGpu, folder: Path, pictures: bool, **options: Any) -> None:
    """Load a checkpoint, drive one request of every kind twice, and see that all are answered."""
    gpu.stepping = False
    with Embedder.from_pretrained(folder, **(ROOM | options)) as embedder:
        asked = requests(embedder, pictures)
        gpu.stepping = True
        for _ in range(2):  # cold, and with prefixes and pictures in their caches
            answered(drive(embedder._pipeline.engine, asked))


def answered(outcomes: list[Outcome]) -> None:
    """See that every request has its vector."""
    for outcome in outcomes:
        if not isinstance(outcome, EngineResult):
            raise outcome


def with_head(folder: Path, base: Path, kind: str) -> Path:
    """The checkpoint in `base` with a head of some kind behind its last layer but one."""
    config = make_config("qwen2_vl")
    save(folder, config)
    make_reference_head(kind, config, **HEAD_SIZES[kind]).save(folder, torch.float32)
    entry = json.loads((base / "tte.json").read_text())
    entry["head"] = {"kind": kind, "tap_layer": 2, "weights": "head.safetensors", **HEAD_SIZES[kind]}
    (folder / "tte.json").write_text(json.dumps(entry))
    return folder


def scenarios(gpu: FakeGpu, base: Path, tiny: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Names, and what to run."""
    for family in (*WITH_TOWER, *TEXT_ONLY):
        folder = save(base / family, make_config(family))
        yield family, lambda: run(gpu, folder, family in WITH_TOWER, recipe=thinking())  # noqa: B023
    for name, options in OPTIONS.items():
        yield name, lambda: run(gpu, base / "qwen2_vl", True, recipe=thinking(), **options)  # noqa: B023
    for kind in HEAD_SIZES:
        yield kind, lambda: run(gpu, with_head(base / kind, tiny, kind), True)  # noqa: B023
    for shape in REAL:
        for name, options in FORMS.items():
            yield f"{shape} {name}", lambda: of_a_shape(gpu, SHAPES[shape], options)  # noqa: B023
    gpu.stepping = False
    there, here = torch.ones(3, device="cuda"), torch.ones(3)
    for name, work in {
        "upload": lambda: here.to("cuda"),
        "upload into": lambda: there.copy_(here),
        "value": lambda: there.sum().item(),
        "truth": lambda: bool(there.sum() > 0),
        "fetch": lambda: there.cpu(),
        "fetch into": lambda: here.copy_(there),
        "fetch as": lambda: there.to(here),
        "index": lambda: there[torch.tensor([0, 1])],
        "list": lambda: there[[0, 1]],
        "filling": lambda: there.__setitem__(slice(0, 2), here[:2]),
        "making": lambda: there.new_tensor([1.0, 2.0]),
    }.items():
        yield f"noticed: {name}", lambda: waits(gpu, work)  # noqa: B023


class Nothing:
    """In the place of a checkpoint's files: every tensor that is asked for, of the right shape and without values."""

    unread: tuple[str, ...] = ()

    def __init__(self, *_: Any, tied: bool = True) -> None:
        self._tied = tied

    def __contains__(self, name: str) -> bool:
        return name.endswith(".bias") or (name == "lm_head.weight" and not self._tied)

    def prefix(self, candidates: Any, probe: str) -> str:
        return next(iter(candidates))

    def get(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.bfloat16, device="cuda")


def of_a_shape(gpu: FakeGpu, shape: Shape, options: dict[str, Any]) -> None:
    """Requests of a real model's shape with two of its layers, and each kind of head at its usual sizes."""
    gpu.stepping = False
    text = dict(shape.text) | {"num_hidden_layers": 2}
    made = getattr(transformers, f"{shape.family}Config")
    spec = decoder_spec(made(text_config=text, vision_config=dict(shape.vision), tie_word_embeddings=shape.tied))
    room = EngineConfig(**(ROOM | options)).resolve(model_context=32768, bytes_per_token=spec.kv_bytes_per_token(2))
    ops = select_ops(room, head_dim=spec.head_dim, group=spec.num_heads // spec.num_kv_heads)
    place: dict[str, Any] = {"device": "cuda", "dtype": room.torch_dtype}
    decoder = Decoder.load(Nothing(tied=shape.tied), spec, ops, **place)  # type: ignore[arg-type]
    ids = tuple(range(100))
    first = EngineRequest(ids, torch.arange(100).expand(3, -1), 0, max_trace_tokens=2, close_ids=(1,), suffix_ids=(2,))
    asked = [
        first,
        replace(first, max_trace_tokens=0),
        replace(first, sampling=FILTERED),
        replace(first, readout=Readout("mean", dim=256)),
        replace(first, readout=Readout("head")),
    ]
    for kind in KINDS:
        gpu.stepping = False
        given = {"num_layers": 1} if kind == "decoder_layers" else {"num_heads": spec.num_heads}
        sizes = HeadSpec(kind, spec.num_layers - 1, "", sizes_of(kind, given, spec.hidden_size))
        with mock.patch("tte_runtime.heads.head._HeadFile", Nothing):
            head = load_head(Path(), sizes, spec, ops, **place)
        first_kind = kind == "decoder_layers"
        engine = Engine(decoder, replace(room, cuda_graphs=first_kind), None, head)  # type: ignore[arg-type]
        gpu.stepping = True
        answered(drive(engine, asked if first_kind else asked[-1:]))


def waits(gpu: FakeGpu, work: Callable[[], object]) -> None:
    """See that some work is found to wait."""
    gpu.stepping = True
    try:
        work()
    except (Waits, torch._subclasses.fake_tensor.DataDependentOutputException):
        return
    raise AssertionError("nothing was noticed")


def main(base: Path, tiny: Path) -> None:
    """Print a JSON object: name of a scenario -> its error, empty if there was none."""
    warnings.simplefilter("ignore")
    kernels, launched, outcomes = set(), {}, {}

    def note(**launch: Any) -> None:
        kernels.add(launch["fn"].jit_function.__name__)
        if name.startswith(REAL):
            launched.setdefault(launched_kind(**launch), name)

    watch_launches(note)
    name = ""
    two_sizes = mock.patch.object(DecodeGraphs.__init__, "__defaults__", ((1, 64),))  # of whose kernels others are made
    with two_sizes, fake_gpu() as gpu:
        for name, work in scenarios(gpu, base, tiny):
            gpu.stepping = False
            try:
                work()
                outcomes[name] = ""
            except Exception:
                outcomes[name] = traceback.format_exc()
    compiled = compiled_kinds()
    unknown = {kind: name for kind, name in launched.items() if kind not in compiled}
    print(json.dumps({"outcomes": outcomes, "kernels": sorted(kernels), "unknown": unknown}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
