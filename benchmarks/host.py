"""What the host does for one captured decode step: scheduling, staging, booking. Replays do nothing here.

    python -m benchmarks.host

On a GPU the host runs a step behind the device, which waits for it only where this takes longer than the step itself.
Needs no GPU; on one the launches and copies that a step queues come on top. Requests think and no token ends their
trace. Progress goes to stderr, the table to stdout.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from tqdm.auto import tqdm

from benchmarks.core.command import PlainCommand
from benchmarks.core.machine import machine
from benchmarks.core.options import Whole, out_option
from benchmarks.core.results import Results
from benchmarks.core.statistics import Summary
from benchmarks.core.tables import markdown
from tte_runtime import Embedder, Think
from tte_runtime.config import DECODE_ROWS
from tte_runtime.engine.graphs import Body, DecodeGraphs
from tte_runtime.engine.request import Listener
from tte_runtime.engine.runner import StepOutput
from tte_runtime.inputs.items import parse_item

__all__ = ["main", "measure"]

MOST = 512  # tokens of a trace: more than are timed
WARM_UP = 16


def _once(body: Body) -> tuple[Callable[[], None], StepOutput]:
    """A capture whose replays do nothing: what the body left stays, as tokens that end nothing."""
    output = body()
    assert output.tokens is not None, "tte-tiny writes"
    output.tokens.zero_()
    return lambda: None, output


def measure(rows: int, steps: int) -> list[float]:
    """Seconds of each of `steps` engine steps of `rows` rows, as many requests of tte-tiny."""
    room: dict[str, Any] = {"max_context": 2 * MOST, "kv_cache_tokens": 2 * MOST * (rows + 1), "max_batch_size": rows}
    with Embedder.from_pretrained("tte-tiny", device="cpu", kernels="torch", overlap=True, **room) as embedder:
        pipeline = embedder._pipeline
        engine = pipeline.engine
        with torch.inference_mode():
            engine.graphs = DecodeGraphs(engine.runner, engine.config, _once)
        listener = Listener(on_result=lambda result: None, on_error=_raise)
        for number in range(rows):
            item, think = parse_item(f"picture {number}"), Think(max_tokens=MOST)
            request = pipeline.renderer.render(
                item, "query", think, priority="interactive", normalize=True, arrival=time.perf_counter()
            )
            engine.add(replace(request, stop_ids=frozenset()), listener)
        seconds: list[float] = []
        while len(seconds) < WARM_UP + steps:
            started = time.perf_counter()
            engine.step()
            seconds.append(time.perf_counter() - started)
        return seconds[WARM_UP:]


def _raise(error: Exception) -> None:
    raise error


@click.command(cls=PlainCommand, help=__doc__)
@click.option("--rows", type=Whole(least=1), default="1,8,32,64", show_default=True, help="Requests at once.")
@click.option("--steps", default=200, show_default=True, type=click.IntRange(1, MOST // 2), help="Timed steps of each.")
@out_option("host.jsonl")
def main(rows: list[int], steps: int, out: Path) -> None:
    if max(rows) > DECODE_ROWS:
        raise click.BadParameter(f"--rows must be at most {DECODE_ROWS}, the most that a captured step takes.")
    results = Results(out, machine("cpu"))
    lines = []
    for count in tqdm(rows, unit="batch", disable=None):
        seconds = measure(count, steps)
        results.add("host", f"rows={count}", {"ok": True, "rows": count, "seconds": seconds})
        spread = Summary.of([1e6 * one for one in seconds])
        lines.append([str(count), f"{spread.p50:.0f}", f"{spread.p95:.0f}"])
    click.echo(markdown(["rows", "us a step, p50", "p95"], lines))


if __name__ == "__main__":
    main()
