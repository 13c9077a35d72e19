"""What each technique earns: the runtime with and without it, on work where it can matter.

    python -m benchmarks.ablation --shape tte-tiny --rounds 15
    python -m benchmarks.ablation --kernels torch

Both sides must embed alike before either is timed. A technique that earns nothing beyond noise is one to take out.
Knows the command line and the table; the techniques stand in `benchmarks.switches`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.core.command import PlainCommand
from benchmarks.core.contest import contest, figures
from benchmarks.core.machine import machine
from benchmarks.core.options import budget_option, out_option, place_options
from benchmarks.core.results import Results, Row
from benchmarks.core.tables import markdown
from benchmarks.core.work import Item, conclude, run_items
from benchmarks.shapes import SHAPES, check_room, folder_of, recipe_of
from benchmarks.steering import Steering
from benchmarks.switches import LONG, SWITCHES, Embed, Switch
from benchmarks.ways import Runtime
from tte_runtime.config import EngineConfig
from tte_runtime.evaluation.compare import TOLERANCE, Arm

__all__ = ["Ablation", "main", "table"]

STAGE = "ablation"
ON, OFF = "on", "off"
BACKENDS = ("auto", "torch", "numba")  # Triton's is what auto takes on a GPU; elsewhere it is an interpreter
HEADERS = ("technique", "work", "with, p50 ms", "without, p50 ms", "without / with [95 %]", "it earns")
LOOSE = 2.0**-7  # in 16 bits: the spacing of bfloat16 at 1, the largest an element of a unit vector can be


class Ablation:
    """The runtime of one shape, with every technique and with one of them off.

    Args:
        shape, models: what is run. config: resolved.
        image, trace: tokens of a picture and of a trace (`None`: the model's own). rounds: timed.
        kernels: the backend that was asked for by name, in rows and keys; "" where it was chosen.
    """

    def __init__(
        self,
        shape: str,
        models: Path,
        config: EngineConfig,
        *,
        image: int,
        trace: int | None,
        rounds: int,
        kernels: str = "",
    ) -> None:
        self.shape, self.models, self.config = SHAPES[shape], models, config
        self.image, self.trace, self.rounds, self.kernels = image, trace, rounds, kernels
        self.steering = Steering()
        self._with: Runtime | None = None

    def items(self) -> Iterator[Item]:
        """One a technique."""
        trace = "own" if self.trace is None else self.trace
        where = f"{self.shape.name}/{self.config.device}/{self.config.dtype}/image={self.image}/trace={trace}"
        where += f"/kernels={self.kernels}" if self.kernels else ""
        for switch in SWITCHES:
            yield Item(STAGE, f"{where}/{switch.name}", partial(self._measure, switch))

    def _measure(self, switch: Switch) -> dict[str, Any]:
        setting = {"switch": switch.name, "work": switch.work.words, "shape": self.shape.name}
        setting |= {"kernels": self.kernels} if self.kernels else {}
        why = switch.needs(self.config)
        if why:
            return {"ok": True, "error": "", "not_applicable": why, **setting}
        whole = self._with = self._with or self._load()
        without = self._load(switch)
        try:
            return setting | self._contest(switch, whole, without)
        finally:
            without.close()

    def _load(self, switch: Switch | None = None) -> Runtime:
        device, dtype = self.config.device, self.config.torch_dtype
        folder = folder_of(self.shape, self.models, image_tokens=self.image, device=device, dtype=dtype)
        options: dict[str, Any] = {"device": device, "dtype": self.config.dtype, "kernels": self.config.kernels}
        if switch is None or self._with is None:
            return Runtime(folder, recipe_of(self.shape), self.steering, **options)
        with switch.loading(self._with.pipeline.engine.decoder.spec):
            return Runtime(folder, recipe_of(self.shape), self.steering, **(options | switch.off))

    def _contest(self, switch: Switch, whole: Runtime, without: Runtime) -> dict[str, Any]:
        batch = switch.work.items(self.shape, self.image)
        sides = {ON: (whole, switch.work.embed), OFF: (without, switch.embed or switch.work.embed)}
        with self.steering.lengths(self.trace) as think:

            def run(runtime: Runtime, embed: Embed, items: list[Any]) -> list[Any]:
                return embed(runtime, items, think)

            arms = [
                Arm(name, partial(run, runtime, embed), runtime.embedder.clear_caches)
                for name, (runtime, embed) in sides.items()
            ]
            failures = self._judge(arms, batch)
            found = figures(contest(arms, batch, failures, rounds=self.rounds, warmups=1))
        return {"ok": not failures, "error": "; ".join(failures.values()), "sides": found}

    def _judge(self, arms: Sequence[Arm], batch: list[Any]) -> dict[str, str]:
        """Without the technique the same vectors come out, wherever the traces are the same."""
        results = []
        for arm in arms:
            arm.before()
            results.append(arm.embed(batch))
        pairs = [(a, b) for a, b in zip(*results, strict=True) if tuple(a.trace_ids) == tuple(b.trace_ids)]
        if not pairs:
            return {OFF: "parity failed: no trace is the same without it"}
        error = max(float(np.abs(a.vector - b.vector).max()) for a, b in pairs)
        allowed = TOLERANCE if self.config.dtype == "float32" else LOOSE
        return {} if error <= allowed else {OFF: f"parity failed: an element is off by {error:.2g} without it"}

    def close(self) -> None:
        """Let the model go."""
        if self._with is not None:
            self._with.close()


def table(rows: Sequence[Row]) -> str:
    """What was measured, a line a technique."""
    lines = []
    for row in rows:
        name = f"{row.get('switch', row['key'])}" + (f", on {row['kernels']}" if "kernels" in row else "")
        if not row["ok"]:
            lines.append([name, row.get("work", ""), f"not timed, {row['error']}", "", "", ""])
        elif "not_applicable" in row:
            lines.append([name, row["work"], f"not applicable here: {row['not_applicable']}", "", "", ""])
        else:
            with_it, without = row["sides"][ON], row["sides"][OFF]
            ratio, low, high = without["ratio"]
            earns = f"{ratio - 1:+.0%}" if not low <= 1 <= high else "nothing beyond noise"
            times = [f"{side['p50']:.1f}" for side in (with_it, without)]
            lines.append([name, row["work"], *times, f"{ratio:.2f} [{low:.2f}, {high:.2f}]", earns])
    return markdown(HEADERS, lines)


@click.command(cls=PlainCommand, help=__doc__)
@click.option("--shape", type=click.Choice(list(SHAPES)), default="tte-tiny", show_default=True)
@click.option("--image", default=16, show_default=True, type=click.IntRange(1), help="Tokens of a picture.")
@click.option("--trace", default=16, show_default=True, type=click.IntRange(0), help="Tokens of every trace.")
@click.option("--rounds", default=15, show_default=True, type=click.IntRange(1), help="Timed rounds of a technique.")
@click.option(
    "--kernels",
    type=click.Choice(BACKENDS),
    default="auto",
    show_default=True,
    help="The backend: some techniques are its.",
)
@place_options
@budget_option
@out_option("ablation.jsonl")
def main(
    shape: str,
    image: int,
    trace: int,
    rounds: int,
    kernels: str,
    device: str,
    dtype: str,
    models: Path,
    budget: float,
    out: Path,
) -> None:
    check_room(SHAPES[shape], image=image + LONG, trace=trace)
    config = EngineConfig(device=device, dtype=dtype, kernels=kernels).resolve(model_context=2048, bytes_per_token=1)
    asked = "" if kernels == "auto" else kernels
    ablation = Ablation(shape, models, config, image=image, trace=trace, rounds=rounds, kernels=asked)
    results = Results(out, machine(config.device))
    todo = list(ablation.items())
    left = run_items(todo, results, budget)
    ablation.close()
    conclude(todo, left, results, table)


if __name__ == "__main__":
    main()
