"""Other engines beside ours, each in its own environment and process, all taking turns.

    python -m benchmarks.rivals --rival onnx_genai ENV/bin/python ONNX_FOLDER

A rival is named with the Python of its environment and the model in the form that it reads. What is absent is left out
with the reason. Those that give no states only write the trace: half of the job, and the table says so. Token ids must
mean the same everywhere. Knows the conversation; knows no rival.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from transformers import AutoTokenizer

from benchmarks.core.contest import contest, figures
from benchmarks.core.machine import ROOT, machine
from benchmarks.core.options import out_option
from benchmarks.core.results import Results, Row
from benchmarks.core.tables import markdown
from benchmarks.models import Unavailable, smollm2
from benchmarks.ways import DEFAULT_WAYS, Loaded
from tte_runtime.config import EngineConfig
from tte_runtime.evaluation.compare import Arm
from tte_runtime.inputs.items import parse_item
from tte_runtime.recipes.base import Recipe
from tte_runtime.recipes.registry import choose_recipe

__all__ = ["RIVALS", "Rival", "RivalError", "main", "table"]

RIVALS = {
    "onnx_genai": "writes only",
    "openvino_genai": "writes only, 4-bit weights where the model is GGUF",
    "llama_cpp": "writes only, the weights of the GGUF; unmeasured so far",
    "sglang_last": "one pass, the state before the last token; unmeasured so far",
    "vllm_two_engines": "two passes in two engines; unmeasured so far",
}


PACKAGE = "benchmarks.baselines"
LONGEST = 4096  # tokens of a trace where nothing is said


class RivalError(Exception):
    """A rival cannot be started, or failed on a question."""


class Rival:
    """A rival in its own process.

    Args:
        name: of its file in benchmarks/baselines. python: of its environment. model: as it reads it.

    Raises:
        RivalError: it did not come up; its own words stand on stderr.
    """

    def __init__(self, name: str, python: str, model: str) -> None:
        self.name = name
        if not Path(python).is_file():
            raise RivalError(f"{python} is no Python: make the environment that benchmarks/baselines/{name}.py names")
        command = [python, "-m", f"{PACKAGE}.{name}", model]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.versions = self._read()["versions"]

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer to a batch."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RivalError(f"{self.name} ended with status {self._process.wait()}; see what it wrote above")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RivalError(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def words(count: int, prompt: int) -> Iterator[str]:
    """Texts of about `prompt` tokens that differ from their first word on: some rivals cache prefixes."""
    rng = np.random.default_rng(0)
    known = ["time", "water", "people", "river", "house", "green", "letter", "music", "stone", "window", "night"]
    for number in range(count):
        yield f"{number} " + " ".join(rng.choice(known, size=max(1, prompt - 4)))


def compare(loaded: Loaded, rivals: Sequence[Rival], *, prompt: int, trace: int, rounds: int) -> dict[str, Any]:
    """Judge and time our ways and the rivals on text of one request."""
    item = {"text": next(words(1, prompt))}
    ways, _ = loaded.ways(DEFAULT_WAYS)
    with loaded.steering.lengths(trace) as think:
        traces = loaded.traces([item], think)
        failures, _ = loaded.judge(ways, [item], traces)
        arms = [Arm(name, partial(way.embed, think=think), way.before) for name, way in ways.items()]
        request = loaded.plain.renderer.render(
            parse_item(item), "query", think, priority="interactive", normalize=True, arrival=0.0
        )
        text = loaded.plain.renderer.prompt_text("query", parse_item(item), [])
        question: dict[str, Any] = {
            "prompts": [list(request.prompt_ids)],
            "texts": [text],
            "images": [],
            "trace": trace,
            "close": [*request.close_ids, *request.suffix_ids],
        }
        agreement = {}
        for rival in rivals:
            written = rival.ask(question)["traces"][0]
            same = sum(a == b for a, b in zip(written, traces[0], strict=False))
            agreement[rival.name] = same / trace
            if len(written) != trace:
                failures[rival.name] = f"wrote {len(written)} tokens instead of {trace}"
            arms.append(Arm(rival.name, partial(_ask, rival, question)))
        found = figures(contest(arms, [item], failures, rounds=rounds))
    return {
        "ok": not failures,
        "error": "; ".join(f"{name}: {why}" for name, why in failures.items()),
        "ways": found,
        "same_tokens": agreement,
        "prompt": len(request.prompt_ids),
        "trace": trace,
        "rivals": {rival.name: rival.versions for rival in rivals},
    }


def _ask(rival: Rival, question: dict[str, Any], batch: list[Any]) -> dict[str, Any]:
    return rival.ask(question)


def table(row: Row) -> str:
    """A line an engine."""
    lines = []
    for name, way in row["ways"].items():
        ratio, low, high = way["ratio"]
        same = row["same_tokens"].get(name)
        agreement = "" if same is None else f"{same:.0%}"
        rate = f"{1000 * row['trace'] / way['p50']:.1f}"
        does = RIVALS.get(name, "the whole job")
        lines.append([name, does, f"{way['p50']:.1f}", rate, f"{ratio:.2f} [{low:.2f}, {high:.2f}]", agreement])
    return markdown(["engine", "does", "p50 ms", "trace tokens/s", "times ours [95 %]", "same tokens"], lines)


def _recipe(folder: Path) -> Recipe:
    """Any text model that thinks: the text as it is, the model's own end token, read at the last token."""
    plain = choose_recipe(folder, "last_token")
    roles = {role: replace(prompt, think=True) for role, prompt in plain.roles.items()}
    end = AutoTokenizer.from_pretrained(folder).eos_token
    return replace(plain, name="rivals", roles=roles, stop=(end,), close=(end,), max_trace_tokens=LONGEST)


@click.command(help=__doc__)
@click.option(
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A Hugging Face folder; SmolLM2-135M, fetched once, where none is given.",
)
@click.option(
    "--rival", "named", nargs=3, multiple=True, metavar="NAME PYTHON MODEL", help=f"Of {', '.join(RIVALS)}; repeatable."
)
@click.option("--prompt", default=128, show_default=True, type=click.IntRange(1), help="About so many tokens.")
@click.option("--trace", default=128, show_default=True, type=click.IntRange(1), help="Tokens of the trace.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--device", default="auto", show_default=True)
@click.option("--dtype", default="auto", show_default=True)
@out_option("rivals.jsonl")
def main(
    model: Path | None,
    named: Sequence[tuple[str, str, str]],
    prompt: int,
    trace: int,
    rounds: int,
    device: str,
    dtype: str,
    out: Path,
) -> None:
    unknown = sorted({name for name, _, _ in named} - set(RIVALS))
    if unknown:
        raise click.BadParameter(f"--rival must be among {', '.join(RIVALS)}, got {', '.join(unknown)}.")
    try:
        model = model or smollm2()
    except Unavailable as error:
        raise click.UsageError(f"SmolLM2 cannot be had here: {error} Name another --model.") from error
    config = EngineConfig(device=device, dtype=dtype).resolve(model_context=2048, bytes_per_token=1)
    loaded = Loaded(model, _recipe(model), device=config.device, dtype=config.dtype)
    with ExitStack() as open_rivals:
        open_rivals.callback(loaded.close)
        rivals = []
        for name, python, path in named:
            try:
                rival = Rival(name, python, path)
            except RivalError as error:
                click.echo(f"{name} is left out: {error}", err=True)
                continue
            open_rivals.callback(rival.close)
            rivals.append(rival)
        row = compare(loaded, rivals, prompt=prompt, trace=trace, rounds=rounds)
    key = f"{model.name}/{config.device}/{config.dtype}/prompt={prompt}/trace={trace}/{len(named)} rivals"
    row = Results(out, machine(config.device)).add("rivals", key, row)
    click.echo(table(row))
    if row["error"]:
        click.echo(row["error"], err=True)
    sys.exit(int(not row["ok"]))


if __name__ == "__main__":
    main()
