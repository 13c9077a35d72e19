"""A text model on a CPU, one request at a time: ours in every weight format against plain transformers.

    python -m benchmarks.cpu FOLDER --prompt 128 --trace 128 --threads 2

FOLDER is a Llama-like checkpoint, SmolLM2-135M for the published figures. A request is a prompt of random tokens, a
greedy trace of a given length, and the vector of the last token. Plain transformers makes it in two passes. First
every way reads the same given trace, and its vector is compared with float32 transformers'; a way that is too far off
is not timed. Then all take turns, in another order each round. Progress to stderr, the table to stdout.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM

from benchmarks.core.command import PlainCommand
from benchmarks.core.machine import machine
from benchmarks.core.options import ROWS
from benchmarks.core.results import Results
from benchmarks.core.statistics import Summary, paired_ratio
from benchmarks.core.tables import markdown
from tte_runtime.config import DTYPES, EngineConfig
from tte_runtime.engine.request import EngineRequest, EngineResult, KnownTrace, Listener
from tte_runtime.loading import load_model
from tte_runtime.models.checkpoint import Checkpoint, read_config

__all__ = ["LEAST_COSINE", "Ours", "Plain", "Written", "main", "measure"]

LEAST_COSINE = {"float32": 0.999999, "bfloat16": 0.99, "w8a8": 0.95}  # with float32 transformers, on one trace


@dataclass
class Written:
    """One request: its trace, its vector [E], and when (seconds) it began, had each token, and ended."""

    ids: list[int] = field(default_factory=list)
    vector: Any = None
    started: float = field(default_factory=time.perf_counter)
    at: list[float] = field(default_factory=list)
    ended: float = 0.0

    @property
    def rate(self) -> float:
        """Tokens a second after the first."""
        return (len(self.at) - 1) / (self.at[-1] - self.at[0])


class Ours:
    """The engine on its caller's thread, without its caches."""

    def __init__(self, folder: Path, dtype: str, weights: str, room: int) -> None:
        config = EngineConfig(
            device="cpu", dtype=dtype, weights=weights, max_context=room, kv_cache_tokens=room, prefix_cache=False
        )
        self.name = f"ours {weights if weights != 'w16' else dtype}"
        self.kind = weights if weights != "w16" else dtype
        self.engine = load_model(folder, config, "last_token").engine

    def write(self, prompt: Sequence[int], length: int, trace: Sequence[int] | None = None) -> Written:
        """A trace of `length` tokens and the vector; or the vector behind a given trace."""
        written = Written()

        def on_token(index: int, token: int) -> None:
            written.ids.append(token)
            written.at.append(time.perf_counter())

        def on_result(result: EngineResult) -> None:
            written.vector, written.ended = result.vector, time.perf_counter()

        def on_error(error: Exception) -> None:
            raise error

        request = EngineRequest(
            prompt_ids=tuple(prompt),
            positions=torch.arange(len(prompt)).expand(3, -1),
            position_delta=0,
            max_trace_tokens=length,
            known_trace=None if trace is None else KnownTrace(tuple(trace)),
        )
        self.engine.add(request, Listener(on_result, on_error, on_token))
        while self.engine.step():
            pass
        return written


class Plain:
    """transformers with sdpa attention: `generate`, then prompt and trace once more."""

    def __init__(self, folder: Path, dtype: str) -> None:
        self.name, self.kind = f"transformers {dtype}", dtype
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype], attn_implementation="sdpa")
        self.model.eval().generation_config.eos_token_id = None  # nothing ends a trace but its length

    @torch.inference_mode()
    def write(self, prompt: Sequence[int], length: int, trace: Sequence[int] | None = None) -> Written:
        """As `Ours.write`."""
        written, ids = Written(), torch.tensor([list(prompt)])
        if trace is None:
            streamer: Any = _Clock(written)
            whole = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=length,
                do_sample=False,
                pad_token_id=0,
                streamer=streamer,
            )
            written.ids = whole[0, len(prompt) :].tolist()
        else:
            whole = torch.tensor([[*prompt, *trace]])
        states = self.model.model(input_ids=whole, use_cache=False).last_hidden_state
        written.vector = F.normalize(states[0, -1].float(), dim=-1).numpy()
        written.ended = time.perf_counter()
        return written


class _Clock:
    """A streamer, as `generate` calls it: the prompt first, then every token."""

    def __init__(self, written: Written) -> None:
        self._written, self._started = written, False

    def put(self, value: torch.Tensor) -> None:
        if self._started:
            self._written.at.append(time.perf_counter())
        self._started = True

    def end(self) -> None:
        pass


Way = Ours | Plain


def measure(
    ways: Sequence[Way], *, prompt: int, trace: int, rounds: int, vocabulary: int, on_request: Callable[[], object]
) -> list[dict[str, Any]]:
    """Parity of every way with the first, which is float32 transformers, then `rounds` timed requests of each.

    Returns:
        a row a way: `cosine` and `max_error` on the first's trace, `same_tokens` its own trace begins with, `totals`
        (seconds) and `rates` (tokens a second) of every round, empty where the cosine is below `LEAST_COSINE`.
    """
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, vocabulary, prompt).tolist() for _ in range(rounds + 1)]
    first = ways[0].write(prompts[0], trace)
    rows: list[dict[str, Any]] = []
    for way in ways:
        given = way.write(prompts[0], trace, first.ids).vector
        own = way.write(prompts[0], trace).ids
        same = next((i for i, (a, b) in enumerate(zip(own, first.ids, strict=True)) if a != b), trace)
        cosine, error = float(given @ first.vector), float(np.abs(given - first.vector).max())
        passed = cosine >= LEAST_COSINE[way.kind]
        rows.append(
            {"way": way.name, "ok": passed, "cosine": cosine, "max_error": error, "same_tokens": same}
            | {"totals": [], "rates": []}
        )
        on_request()
    for number, ids in enumerate(prompts[1:]):
        for turn in range(len(ways)):
            index = (number + turn) % len(ways)
            if rows[index]["ok"]:
                written = ways[index].write(ids, trace)
                rows[index]["totals"].append(written.ended - written.started)
                rows[index]["rates"].append(written.rate)
            on_request()
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line a way; times transformers is against transformers' way of the same dtype (float32's for 8 bits)."""
    by_name = {row["way"]: row for row in rows}
    lines = []
    for row in rows:
        parity = [f"{row['cosine']:.6f}", f"{row['max_error']:.1e}", str(row["same_tokens"])]
        if not row["ok"]:
            lines.append([row["way"], "not timed: too far off", "", "", "", *parity])
            continue
        rate, total = Summary.of(row["rates"]), Summary.of([1000 * t for t in row["totals"]])
        plain = by_name.get(f"transformers {row['way'].split()[1]}", by_name["transformers float32"])
        times = [str(paired_ratio(row["rates"], plain["rates"])), str(paired_ratio(plain["totals"], row["totals"]))]
        spread = f"{rate.p50:.1f} ({rate.least:.1f} to {rate.most:.1f})"
        lines.append([row["way"], spread, f"{total.p50:.0f}", *times, *parity])
    return markdown(
        ["way", "tokens/s", "whole, ms", "rate / plain's", "plain's time / own", "cosine", "max error", "same tokens"],
        lines,
    )


@click.command(cls=PlainCommand, help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--prompt", default=128, show_default=True, type=click.IntRange(1), help="Tokens of a prompt.")
@click.option("--trace", default=128, show_default=True, type=click.IntRange(2), help="Tokens of a trace.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Timed requests a way.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1), help="Of torch, for all ways.")
@click.option("--out", type=ROWS, help="Append the rows to this .jsonl file.")
def main(folder: Path, prompt: int, trace: int, rounds: int, threads: int, out: Path | None) -> None:
    torch.set_num_threads(threads)
    read_config(Checkpoint.of(folder))  # refused here in one line, which transformers' loading is not
    results = Results(out, machine("cpu", threads=threads)) if out else None
    first, room = Plain(folder, "float32"), prompt + trace
    ways: list[Way] = [first, Ours(folder, "float32", "w16", room), Plain(folder, "bfloat16")]
    ways += [Ours(folder, "bfloat16", "w16", room), Ours(folder, "float32", "w8a8", room)]
    vocabulary = first.model.config.vocab_size
    with tqdm(total=(rounds + 1) * len(ways), unit="request", file=sys.stderr, disable=None) as bar:
        rows = measure(
            ways, prompt=prompt, trace=trace, rounds=rounds, vocabulary=vocabulary, on_request=lambda: bar.update()
        )
    click.echo(table(rows))
    if results is not None:
        for row in rows:
            results.add("cpu", f"{folder.name}/{prompt}+{trace}/{row['way']}", row)
    sys.exit(0 if all(row["ok"] for row in rows) else 1)


if __name__ == "__main__":
    main()
