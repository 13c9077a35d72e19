"""Other engines beside ours, each in its own environment and process, all taking turns.

    python -m benchmarks.rivals --rival onnx_genai ENV/bin/python ONNX_FOLDER

A rival is named with the Python of its environment and the model in the form that it reads. What is absent is left out
with the reason. Those that give no states only write the trace: half of the job, and the table says so. Token ids must
mean the same everywhere. Knows the conversation; knows no rival.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from transformers import AutoTokenizer

from benchmarks.baselines.rival import Rival, RivalError
from benchmarks.core.command import PlainCommand
from benchmarks.core.contest import contest, figures
from benchmarks.core.machine import machine
from benchmarks.core.options import out_option
from benchmarks.core.results import Results, Row
from benchmarks.core.tables import markdown
from benchmarks.cpu import LEAST_COSINE
from benchmarks.models import Unavailable, smollm2
from benchmarks.shapes import SHAPES
from benchmarks.ways import DEFAULT_WAYS, Loaded, Runtime, Traces, Way
from benchmarks.workload import make_batch
from tte_runtime.config import EngineConfig
from tte_runtime.evaluation.compare import Arm
from tte_runtime.inputs.items import parse_item
from tte_runtime.models.checkpoint import Checkpoint, read_config
from tte_runtime.recipes.base import Recipe
from tte_runtime.recipes.registry import choose_recipe
from tte_runtime.types import Think

__all__ = ["RIVALS", "main", "table"]

RIVALS = {
    "onnx_genai": "writes only",
    "openvino_genai": "writes only, 4-bit weights where the model is GGUF",
    "llama_cpp": "writes only, the weights of the GGUF",
    "sglang_last": "one pass, the state before the last token; unmeasured so far",
    "vllm_two_engines": "two passes in two engines; unmeasured so far",
}


LONGEST = 4096  # tokens of a trace where nothing is said


def words(count: int, prompt: int) -> Iterator[str]:
    """Texts of about `prompt` tokens that differ from their first word on: some rivals cache prefixes."""
    rng = np.random.default_rng(0)
    known = ["time", "water", "people", "river", "house", "green", "letter", "music", "stone", "window", "night"]
    for number in range(count):
        yield f"{number} " + " ".join(rng.choice(known, size=max(1, prompt - 4)))


def make_items(*, batch: int, prompt: int, image: int) -> list[dict[str, Any]]:
    """Texts of about `prompt` tokens, or questions about pictures of `image` tokens each (Qwen2-VL's 28 pixels)."""
    if image:
        return make_batch(SHAPES["qwen2vl-2b"], image, batch)
    return [{"text": text} for text in words(batch, prompt)]


def question_of(loaded: Loaded, items: list[dict[str, Any]], think: Think | None, folder: Path) -> dict[str, Any]:
    """What a rival is asked: the same prompts, a picture as one placeholder and a file under `folder`."""
    renderer, options = loaded.plain.renderer, {"priority": "interactive", "normalize": True, "arrival": 0.0}
    requests = [renderer.render(parse_item(item), "query", think, **options) for item in items]  # type: ignore[arg-type]
    prompts = []
    for request in requests:
        hidden = {i for span in request.media for i in range(span.start + 1, span.start + span.length)}
        prompts.append([token for i, token in enumerate(request.prompt_ids) if i not in hidden])
    images = []
    for number, item in enumerate(items):
        if "image" in item:
            images.append(str(folder / f"{number}.png"))
            item["image"].save(images[-1])
    return {
        "prompts": prompts,
        "texts": [renderer.tokenizer.decode(ids) for ids in prompts],
        "images": images,
        "trace": requests[0].max_trace_tokens,
        "close": [*requests[0].close_ids, *requests[0].suffix_ids],
    }


def compare(
    loaded: Loaded,
    rivals: Sequence[Rival],
    items: list[dict[str, Any]],
    *,
    trace: int,
    rounds: int,
    formats: Mapping[str, Runtime] | None = None,
) -> dict[str, Any]:
    """Judge and time our ways and the rivals on one batch, and ours in other weight formats, by name."""
    ways, _ = loaded.ways(DEFAULT_WAYS)
    with loaded.steering.lengths(trace) as think, TemporaryDirectory() as folder:
        traces = loaded.traces(items, think)
        failures, _ = loaded.judge(ways, items, traces)
        question = question_of(loaded, items, think, Path(folder))
        arms = [Arm(name, partial(way.embed, think=think), way.before) for name, way in ways.items()]
        agreement, cosines = {}, {}
        for kind, runtime in (formats or {}).items():
            name, way = f"ours {kind}", runtime.way()
            cosines[name] = _least_cosine(loaded, way, items, traces)
            if not cosines[name] >= LEAST_COSINE[kind]:
                failures[name] = f"a cosine of {cosines[name]:.3f} with float32, {LEAST_COSINE[kind]} is the least"
            arms.append(Arm(name, partial(way.embed, think=think), way.before))
        for rival in rivals:
            written = rival.ask(question)["traces"]
            pairs = [pair for row in zip(written, traces, strict=True) for pair in zip(*row, strict=False)]
            agreement[rival.name] = sum(a == b for a, b in pairs) / (trace * len(items))
            if {len(row) for row in written} != {trace}:
                failures[rival.name] = f"wrote traces of {[len(row) for row in written]} tokens instead of {trace}"
            arms.append(Arm(rival.name, partial(_ask, rival, question)))
        found = figures(contest(arms, items, failures, rounds=rounds))
    return {
        "ok": not failures,
        "error": "; ".join(f"{name}: {why}" for name, why in failures.items()),
        "ways": found,
        "same_tokens": agreement,
        "cosines": cosines,
        "trace": trace,
        "batch": len(items),
        "rivals": {rival.name: rival.versions for rival in rivals},
    }


def _least_cosine(loaded: Loaded, way: Way, items: list[dict[str, Any]], traces: Traces) -> float:
    """Of the vectors over fixed traces, with plain transformers' in float32."""
    wanted, _ = loaded.reference(items, traces, bare=way.bare)
    got = np.stack([result.vector for result in way.given(items, traces)])
    return float((got * wanted).sum(1).min())  # all are of length 1


def _ask(rival: Rival, question: dict[str, Any], batch: list[Any]) -> dict[str, Any]:
    return rival.ask(question)


def table(row: Row) -> str:
    """A line an engine."""
    lines = []
    for name, way in row["ways"].items():
        ratio, low, high = way["ratio"]
        same = row["same_tokens"].get(name)
        agreement = "" if same is None else f"{same:.0%}"
        rate = f"{1000 * row['trace'] * row['batch'] / way['p50']:.1f}"
        does = RIVALS.get(name, "the whole job")
        if name in row.get("cosines", {}):
            does += f", cosine {row['cosines'][name]:.3f}"
        lines.append([name, does, f"{way['p50']:.1f}", rate, f"{ratio:.2f} [{low:.2f}, {high:.2f}]", agreement])
    return markdown(["engine", "does", "p50 ms", "trace tokens/s", "times ours [95 %]", "same tokens"], lines)


def _recipe(folder: Path) -> Recipe:
    """Any text model that thinks: the text as it is, the model's own end token, read at the last token."""
    plain = choose_recipe(folder, "last_token")
    roles = {role: replace(prompt, think=True) for role, prompt in plain.roles.items()}
    end = AutoTokenizer.from_pretrained(folder).eos_token
    return replace(plain, name="rivals", roles=roles, stop=(end,), close=(end,), max_trace_tokens=LONGEST)


@click.command(cls=PlainCommand, help=__doc__)
@click.option(
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A Hugging Face folder; SmolLM2-135M, fetched once, where none is given.",
)
@click.option(
    "--rival", "named", nargs=3, multiple=True, metavar="NAME PYTHON MODEL", help=f"Of {', '.join(RIVALS)}; repeatable."
)
@click.option(
    "--format", "kinds", multiple=True, type=click.Choice(["w8a8"]), help="Ours with such weights, too; on a CPU."
)
@click.option("--prompt", default=128, show_default=True, type=click.IntRange(1), help="About so many tokens.")
@click.option("--image", default=0, show_default=True, type=click.IntRange(0), help="Tokens of a picture; 0: text.")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1), help="Requests at once.")
@click.option("--trace", default=128, show_default=True, type=click.IntRange(1), help="Tokens of the trace.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--device", default="auto", show_default=True)
@click.option("--dtype", default="auto", show_default=True)
@out_option("rivals.jsonl")
def main(
    model: Path | None,
    named: Sequence[tuple[str, str, str]],
    kinds: Sequence[str],
    prompt: int,
    image: int,
    batch: int,
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
    read_config(Checkpoint.of(model))  # refused here in one line, which transformers' loading is not
    config = EngineConfig(device=device, dtype=dtype).resolve(model_context=2048, bytes_per_token=1)
    results = Results(out, machine(config.device))
    recipe = _recipe(model)
    place: dict[str, Any] = {"device": config.device, "dtype": config.dtype}
    loaded = Loaded(model, recipe, **place)
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
        formats = {kind: Runtime(model, recipe, loaded.steering, weights=kind, **place) for kind in kinds}
        for runtime in formats.values():
            open_rivals.callback(runtime.close)
        items = make_items(batch=batch, prompt=prompt, image=image)
        row = compare(loaded, rivals, items, trace=trace, rounds=rounds, formats=formats)
    what = f"image={image}" if image else f"prompt={prompt}"
    key = (
        f"{model.name}/{config.device}/{config.dtype}/{what}/trace={trace}/batch={batch}/{len(named) + len(kinds)} more"
    )
    row = results.add("rivals", key, row)
    click.echo(table(row))
    if row["error"]:
        click.echo(row["error"], err=True)
    sys.exit(int(not row["ok"]))


if __name__ == "__main__":
    main()
