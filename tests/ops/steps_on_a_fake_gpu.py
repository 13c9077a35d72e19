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

import numpy as np
import torch
from checkpoints import TEXT_ONLY, WITH_TOWER, make_config, save, thinking
from engine_harness import drive, render
from fake_gpu import FakeGpu, Waits, fake_gpu, watch_launches
from PIL import Image

from tte_runtime import Embedder
from tte_runtime.engine.request import EngineRequest, EngineResult, Readout, Sampling
from tte_runtime.heads.reference import make_reference_head

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
HEADS: dict[str, dict[str, Any]] = {
    "decoder_layers": {"num_layers": 1, "readout": "mean"},
    "attention_pooler": {"num_queries": 1, "num_heads": 2, "intermediate_size": 48},
    "latent_attention": {"num_latents": 6, "num_heads": 2, "intermediate_size": 64},
    "qformer": {"num_layers": 1, "num_queries": 3, "num_heads": 4, "intermediate_size": 64},
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
            for outcome in drive(embedder._pipeline.engine, asked):
                if not isinstance(outcome, EngineResult):
                    raise outcome


def with_head(folder: Path, base: Path, kind: str) -> Path:
    """The checkpoint in `base` with a head of some kind behind its last layer but one."""
    config = make_config("qwen2_vl")
    save(folder, config)
    make_reference_head(kind, config, **HEADS[kind]).save(folder, torch.float32)
    entry = json.loads((base / "tte.json").read_text())
    entry["head"] = {"kind": kind, "tap_layer": 2, "weights": "head.safetensors", **HEADS[kind]}
    (folder / "tte.json").write_text(json.dumps(entry))
    return folder


def scenarios(gpu: FakeGpu, base: Path, tiny: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Names, and what to run."""
    for family in (*WITH_TOWER, *TEXT_ONLY):
        folder = save(base / family, make_config(family))
        yield family, lambda: run(gpu, folder, family in WITH_TOWER, recipe=thinking())  # noqa: B023
    for name, options in OPTIONS.items():
        yield name, lambda: run(gpu, base / "qwen2_vl", True, recipe=thinking(), **options)  # noqa: B023
    for kind in HEADS:
        yield kind, lambda: run(gpu, with_head(base / kind, tiny, kind), True)  # noqa: B023
    yield "a copy that waits is noticed", lambda: waits(gpu, lambda: torch.ones(3).to("cuda"))
    yield "a value that is read is noticed", lambda: waits(gpu, lambda: torch.ones(3, device="cuda").sum().item())
    yield "a fetch is noticed", lambda: waits(gpu, lambda: torch.ones(3, device="cuda").cpu())


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
    launched = set()
    watch_launches(lambda *, fn, **_: launched.add(fn.jit_function.__name__))
    outcomes = {}
    with fake_gpu() as gpu:
        for name, work in scenarios(gpu, base, tiny):
            gpu.stepping = False
            try:
                work()
                outcomes[name] = ""
            except Exception:
                outcomes[name] = traceback.format_exc()
    print(json.dumps({"outcomes": outcomes, "launched": sorted(launched)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
