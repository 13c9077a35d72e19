"""The end-to-end stages of benchmarks.gpu: a decode step by batch size, and one request against plain transformers.

Random weights of Qwen2-VL-2B's shape in bfloat16, made on the device. The ways, the judging and the floor are those of
benchmarks.embed. Knows stages; knows no kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

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

__all__ = ["EndToEnd", "decode_step"]

SHAPE, IMAGE, TRACE = "qwen2vl-2b", 256, 128
BATCHES = (1, 8, 32)
SHORT, LONG = 8, 72  # tokens of two traces; what lies between them is decode steps and nothing else


class EndToEnd:
    """The two stages, on one loaded model.

    Args:
        models: folder of random checkpoints. device, dtype: where and in what.
        shape: a name of `SHAPES`. batches: requests at once. rounds: timed.
    """

    def __init__(
        self,
        models: Path,
        *,
        device: str = "cuda",
        dtype: str = "bfloat16",
        shape: str = SHAPE,
        batches: tuple[int, ...] = BATCHES,
        rounds: int = 7,
    ) -> None:
        self.batches, self.rounds = batches, rounds
        cells = [Cell(IMAGE, TRACE, 1)]
        self.grid = Grid(shape, cells, ways=(OURS, TWO_PASS), rounds=rounds, models=models, device=device, dtype=dtype)

    def items(self) -> Iterator[Item]:
        """Decode steps, then one request."""
        for batch in self.batches:
            yield Item("decode", f"{self.grid.shape.name}/{self.grid.dtype}/batch={batch}", partial(self._step, batch))
        yield from self.grid.items()

    def _step(self, batch: int) -> dict[str, Any]:
        loaded = self.grid.load(IMAGE)
        items = make_batch(self.grid.shape, IMAGE, batch)
        return decode_step(loaded, items, rounds=self.rounds)

    def close(self) -> None:
        """Let the model go."""
        self.grid.close()


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
