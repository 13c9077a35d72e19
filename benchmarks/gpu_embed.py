"""The end-to-end stages of benchmarks.gpu: a decode step by shape and batch, and a request against plain transformers.

Random weights of Qwen2-VL's shapes in bfloat16, made on the device. The ways, the judging and the floor are those of
benchmarks.embed. Knows stages; knows no kernel.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.cell import Cell
from benchmarks.core.contest import contest
from benchmarks.core.statistics import Summary
from benchmarks.core.tables import markdown
from benchmarks.core.work import Item
from benchmarks.embed import Grid
from benchmarks.embed import table as embed_table
from benchmarks.floor import floor_ms, measure_ceilings, sizes_of
from benchmarks.ways import OURS, TWO_PASS, Loaded
from benchmarks.workload import make_batch
from tte_runtime.evaluation.compare import Arm

__all__ = ["STEPS", "EndToEnd", "decode_step"]

IMAGE, TRACE = 256, 128
STEPS: dict[str, tuple[int, ...]] = {"qwen2vl-2b": (1, 8, 32), "qwen2vl-7b": (1,)}
SHORT, LONG = 8, 72  # tokens of two traces; what lies between them is decode steps and nothing else


class EndToEnd:
    """The two stages, with one model loaded at a time.

    Args:
        models: folder of random checkpoints. device, dtype: where and in what.
        steps: names of `SHAPES` and for each how many requests decode at once; the first one's is also embedded.
        rounds: timed.
    """

    def __init__(
        self,
        models: Path,
        *,
        device: str = "cuda",
        dtype: str = "bfloat16",
        steps: Mapping[str, tuple[int, ...]] = STEPS,
        rounds: int = 7,
    ) -> None:
        self.steps, self.rounds = steps, rounds
        place: dict[str, Any] = {"rounds": rounds, "models": models, "device": device, "dtype": dtype}
        self.grids = [
            Grid(shape, [] if number else [Cell(IMAGE, TRACE, 1)], ways=(OURS, TWO_PASS), **place)
            for number, shape in enumerate(steps)
        ]

    def items(self) -> Iterator[Item]:
        """Shape by shape: decode steps, then what is embedded."""
        for grid in self.grids:
            for batch in self.steps[grid.shape.name]:
                key = f"{grid.shape.name}/{grid.dtype}/batch={batch}"
                yield Item("decode", key, partial(self._alone, grid, partial(self._step, grid, batch)))
            for item in grid.items():
                yield Item(item.stage, item.key, partial(self._alone, grid, item.work))

    def _alone(self, grid: Grid, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Does the work after every other model is gone from the device."""
        for other in self.grids:
            if other is not grid:
                other.close()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return work()

    def _step(self, grid: Grid, batch: int) -> dict[str, Any]:
        return decode_step(grid.load(IMAGE), make_batch(grid.shape, IMAGE, batch), rounds=self.rounds)

    def close(self) -> None:
        """Let the models go."""
        for grid in self.grids:
            grid.close()


def decode_step(loaded: Loaded, items: list[Any], *, rounds: int) -> dict[str, Any]:
    """Milliseconds of one decode step with a row for each item, and the floor of such a step.

    The difference of two trace lengths in the same round, divided by the steps between them; judged first.
    """
    ways, _ = loaded.ways([OURS])
    with loaded.steering.lengths(SHORT) as think:
        failures, _ = loaded.judge(ways, items, loaded.traces(items, think))
    if failures:
        return {"ok": False, "error": failures[OURS]}

    def arm(trace: int) -> Arm:
        def embed(batch: list[Any]) -> Any:
            with loaded.steering.lengths(trace) as think:
                return ways[OURS].embed(batch, think)

        return Arm(str(trace), embed, ways[OURS].before)

    ms = contest([arm(SHORT), arm(LONG)], items, {}, rounds=rounds)
    steps = [(long - short) / (LONG - SHORT) for short, long in zip(ms[str(SHORT)], ms[str(LONG)], strict=True)]
    result = ways[OURS].embed(items[:1], None)[0]
    sizes = sizes_of(loaded.plain.model, loaded.plain.head)
    ceilings = measure_ceilings(sizes, loaded.config.device, loaded.config.torch_dtype)
    floor = floor_ms(
        sizes, ceilings, batch=len(items), prompt=result.counts.prompt + SHORT, image=0, trace=LONG - SHORT
    )["decode"] / (LONG - SHORT)
    figures = Summary.of(steps).to_json()
    return {"ok": True, "error": "", "ms": steps, **figures, "floor_ms": floor, "floor_share": floor / figures["p50"]}


def table(decode: dict[str, dict[str, Any]], embed: dict[str, dict[str, Any]]) -> str:
    """Both stages in Markdown."""
    lines = [
        [key, f"{row['p50']:.3f}", f"{row['p95']:.3f}", f"{row['floor_ms']:.3f}", f"{row['floor_share']:.0%}"]
        if row["ok"]
        else [key, f"not timed, {row['error']}", "", "", ""]
        for key, row in decode.items()
    ]
    step = markdown(["decode step", "p50 ms", "p95 ms", "floor ms", "floor / time"], lines)
    return f"{step}\n\n{embed_table(list(embed.values()))}"
