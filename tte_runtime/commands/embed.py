"""`tte embed`: requests from arguments or JSONL, results as JSONL or .npy. One failing request loses no other.

Knows options, lines and files; embedding is `Embedder`'s.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from tte_runtime.commands.options import engine_options, system, system_options, think_options, thinking
from tte_runtime.errors import InputError, OptionError, TteError, one_of

if TYPE_CHECKING:
    from tte_runtime.commands.results import Sink
    from tte_runtime.embedder import Embedder
    from tte_runtime.types import Result

BLOCK = 64  # requests handed over at once: a long file is never kept whole, and results come as they are ready


@dataclass(frozen=True)
class Request:
    """One request of a run: what to embed, or why its line cannot be.

    Attributes:
        index: its place in the run, from 0.
        item: as `Embedder.embed` takes it; `None` with an `error`.
        id: whatever the line's "id" was; handed through.
        error: what is wrong with the line.
    """

    index: int
    item: Any = None
    id: Any = None
    error: TteError | None = None


@click.command()
@click.argument("inputs", nargs=-1)
@click.option("--role", type=click.Choice(["query", "document"]), help="Needed where the recipe tells them apart.")
@click.option("--model", default="tte-tiny", show_default=True, help="A bundled checkpoint, a folder, or a hub id.")
@click.option("--recipe", help="Where the checkpoint does not say how it embeds, or another way is wanted.")
@click.option("--text", help="The text of one request, with --image for its pictures.")
@click.option("--image", "images", multiple=True, metavar="PICTURE", help="A picture of one request (repeatable).")
@click.option(
    "--jsonl",
    type=click.File("rb"),
    help='Requests from a file, or - for stdin: {"text": ..., "image": ..., "video": ..., "id": ...} a line.',
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="A file instead of stdout.")
@click.option("--format", "form", type=click.Choice(["jsonl", "npy"]), help="By default what --out ends in, or jsonl.")
@think_options
@system_options
@click.option("--truncate-dim", type=int, metavar="D", help="Keep the first D dimensions, normalised again.")
@click.option("--batch-size", type=int, metavar="N", help="Most requests in work at once.")
@engine_options
@click.pass_context
def embed(
    context: click.Context,
    /,
    inputs: tuple[str, ...],
    role: Any,
    model: str,
    recipe: str | None,
    text: str | None,
    images: tuple[str, ...],
    jsonl: IO[bytes] | None,
    out: Path | None,
    form: str | None,
    no_think: bool,
    max_trace_tokens: int | None,
    deadline_ms: float | None,
    hide_traces: bool,
    reasoner: str | None,
    reasoner_model: str | None,
    traces: str | None,
    truncate_dim: int | None,
    batch_size: int | None,
    **engine: Any,
) -> None:
    """Embed texts, pictures, videos, pages of PDFs, or a mix.

    INPUTS are texts, paths or URLs of pictures, videos and PDFs (report.pdf#page=3), and paths of .txt files, one a
    request; lines of --jsonl may also have "images", "video" (with "fps", "num_frames" or "max_pixels"), "pdf" (with
    "page"), "instruction" and "trace" (one that was written elsewhere). Vectors go to stdout, traces and progress to
    stderr. A request that fails loses no other: its row has an "error" (in .npy it is NaN), and the exit code is 1.
    """
    requests = gather(inputs, text, images, jsonl)
    sink_class = choose_sink(out, form)
    think = thinking(no_think, max_trace_tokens, deadline_ms)
    parts = system(reasoner, reasoner_model, traces)
    from tte_runtime.embedder import Embedder

    with Embedder.from_pretrained(model, recipe=recipe, **parts, **engine) as embedder:
        click.echo(f"{model}: {embedder.config.describe()}", err=True)
        if role is None and not embedder.recipe.same_for_both_roles:
            raise OptionError(
                f"recipe {embedder.recipe.name!r} embeds queries and documents differently. Give --role query or "
                "--role document."
            )
        how = {"role": role or "query", "think": think, "truncate_dim": truncate_dim}
        with sink_class(out, truncate_dim or embedder.embedding_dim) as sink:
            num_failed = run(embedder, requests, sink, show=not hide_traces, batch_size=batch_size, **how)
    if num_failed:
        click.echo(f"{num_failed} requests failed", err=True)
        context.exit(1)


def gather(
    inputs: tuple[str, ...], text: str | None, images: tuple[str, ...], jsonl: IO[bytes] | None
) -> Iterator[Request]:
    """The requests of a run, from the one source that was given.

    Raises:
        OptionError: no source is given, or more than one.
    """
    sources = [bool(inputs), text is not None or bool(images), jsonl is not None]
    if sum(sources) != 1:
        raise OptionError(
            f"give requests in one way, got {sum(sources)}: INPUTS, or --text and --image for one request, or "
            "--jsonl FILE (- for stdin)."
        )
    if jsonl is not None:
        return read_lines(jsonl)
    if inputs:
        return (read_input(index, given) for index, given in enumerate(inputs))
    return iter([Request(0, {"text": text or "", "images": list(images)})])


def read_input(index: int, given: str) -> Request:
    """A request from an argument: a text, what names a picture, video or PDF, or a .txt file's path, which is read."""
    if not given.endswith(".txt") or "\n" in given:
        return Request(index, given)
    try:
        return Request(index, {"text": Path(given).read_text(encoding="utf-8")})
    except (OSError, UnicodeDecodeError) as error:
        return Request(index, error=InputError(f"{given!r} cannot be read: {error}. Use --text for such a text."))


def read_lines(lines: Iterable[bytes]) -> Iterator[Request]:
    """Requests of a JSONL file, blank lines skipped; a line that is none becomes a request with an error."""
    index = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            if not isinstance(entry, (dict, str)):
                raise InputError(
                    f'it must be an object with "text" or "image", or a string, got {type(entry).__name__}'
                )
        except ValueError as error:  # no JSON, no UTF-8, or no request
            yield Request(index, error=InputError(f"line {number} is no request: {error}."))
        else:
            identity = entry.pop("id", None) if isinstance(entry, dict) else None
            yield Request(index, entry, identity)
        index += 1


def choose_sink(out: Path | None, form: str | None) -> type[Sink]:
    """Where results go, checked before a model is loaded.

    Raises:
        OptionError: --out cannot be written, contradicts --format, or bytes would go to a terminal.
    """
    from tte_runtime.commands.results import SINKS

    suffix = out.suffix[1:] if out else ""
    if out is not None and suffix not in SINKS:
        raise OptionError(one_of("ending of --out", out.suffix, [f".{name}" for name in SINKS]))
    if form and suffix and form != suffix:
        raise OptionError(f"--format {form} and --out {out} contradict each other. Drop --format.")
    if out is not None and not out.absolute().parent.is_dir():
        raise OptionError(f"--out {out}: there is no folder {out.parent}. Make it first.")
    form = form or suffix or "jsonl"
    if form == "npy" and out is None and sys.stdout.isatty():
        raise OptionError("--format npy would write bytes to a terminal. Give --out FILE.npy, or pipe it.")
    return SINKS[form]


def run(
    embedder: Embedder, requests: Iterator[Request], sink: Sink, *, show: bool, batch_size: int | None, **how: Any
) -> int:
    """Embed, write every outcome in order, talk on stderr. Returns how many requests failed."""
    from tqdm import tqdm

    num_failed = 0
    with tqdm(unit="item", desc="embedding", disable=None, leave=False) as bar:
        while block := list(itertools.islice(requests, BLOCK)):
            if show and len(block) == 1 and block[0].index == 0 and block[0].error is None:
                outcomes = [follow(embedder, block[0].item, **how)]
            else:
                outcomes = answer(embedder, block, batch_size, how)
            for request, outcome in zip(block, outcomes, strict=True):
                sink.write(request.index, request.id, outcome)
                if isinstance(outcome, Exception):
                    num_failed += 1
                    bar.write(f"[{request.index}] error: {outcome}", file=sys.stderr)
                elif show and len(block) > 1 and outcome.trace:
                    bar.write(f"[{request.index}] {outcome.trace}", file=sys.stderr)
            bar.update(len(block))
    return num_failed


def answer(
    embedder: Embedder, block: list[Request], batch_size: int | None, how: dict[str, Any]
) -> list[Result | Exception]:
    """An outcome for every request of a block, in order."""
    good = [request.item for request in block if request.error is None]
    results = iter(embedder.embed(good, priority="corpus", batch_size=batch_size, errors="return", **how))
    return [request.error or next(results) for request in block]


def follow(embedder: Embedder, item: Any, **how: Any) -> Result | Exception:
    """The outcome of a single request, its trace shown as it is written."""
    from tte_runtime.types import Result, TraceToken

    try:
        for event in embedder.stream(item, **how):
            if isinstance(event, TraceToken):
                click.echo(event.text, nl=False, err=True)
            elif isinstance(event, Result):
                click.echo("" if not event.trace else f"\n[{event.finish_reason}]", err=True)
                return event
    except OptionError:
        raise
    except TteError as error:
        return error
    raise AssertionError("a stream ends with a result")
