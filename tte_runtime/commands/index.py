"""`tte index build` and `tte index search`. Knows options and how to print; the work is in `tte_runtime.index`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tte_runtime.commands.group import PlainGroup
from tte_runtime.commands.options import engine_options, system, system_options, think_options, thinking
from tte_runtime.errors import OptionError


@click.group(cls=PlainGroup)
def index() -> None:
    """Build an index of a folder, and search it."""


@index.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The index, a folder.")
@click.option("--model", default="tte-tiny", show_default=True, help="A bundled checkpoint, a folder, or a hub id.")
@click.option("--recipe", help="Where the checkpoint does not say how it embeds, or another way is wanted.")
@click.option("--no-think", is_flag=True, help="Embed documents without a trace.")
@click.option("--max-trace-tokens", type=int, metavar="N", help="Close a document's trace after N tokens.")
@click.option("--truncate-dim", type=int, metavar="D", help="Keep the first D dimensions, normalised again.")
@click.option("--batch-size", type=int, metavar="N", help="Most documents in work at once.")
@system_options
@engine_options
@click.pass_context
def build(
    context: click.Context,
    /,
    folder: Path,
    out: Path,
    model: str,
    recipe: str | None,
    no_think: bool,
    max_trace_tokens: int | None,
    truncate_dim: int | None,
    batch_size: int | None,
    reasoner: str | None,
    reasoner_model: str | None,
    traces: str | None,
    **engine: Any,
) -> None:
    """Embed every picture, video, page of a PDF and .txt file under FOLDER.

    A build that was stopped goes on where it was; one that is repeated embeds only what is new or has changed. A file
    that cannot be embedded is named on stderr and left out, and the exit code is 1.
    """
    thinking(no_think, max_trace_tokens)
    parts = system(reasoner, reasoner_model, traces)
    from tte_runtime.embedder import Embedder
    from tte_runtime.index import build_index
    from tte_runtime.index.build import find_files

    find_files(folder.expanduser(), out.expanduser())  # before a model is loaded
    with Embedder.from_pretrained(model, recipe=recipe, **parts, **engine) as embedder:
        click.echo(f"{model}: {embedder.config.describe()}", err=True)
        report = build_index(
            embedder,
            folder,
            out,
            model=model,
            think=False if no_think else None,
            max_trace_tokens=max_trace_tokens,
            truncate_dim=truncate_dim,
            batch_size=batch_size,
            show_progress_bar=True,
        )
    for name, error in report.failed.items():
        click.echo(f"{name}: {error}", err=True)
    click.echo(
        f"{out}: {report.embedded} embedded, {report.kept} kept, {report.removed} removed, {len(report.failed)} failed",
        err=True,
    )
    if report.failed:
        context.exit(1)


@index.command()
@click.argument("index_path", metavar="INDEX", type=click.Path(path_type=Path))
@click.argument("question", required=False)
@click.option("--image", "images", multiple=True, metavar="PICTURE", help="A picture of the question (repeatable).")
@click.option("--instruction", help="The question's, where the recipe has a place for one.")
@click.option("--top", default=10, show_default=True, type=click.IntRange(min=1), metavar="K", help="How many.")
@click.option("--model", help="By default the one that the index was built with.")
@click.option("--recipe", help="The one that the index was built with, where the checkpoint does not say.")
@think_options
@system_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
@engine_options
def search(
    index_path: Path,
    question: str | None,
    images: tuple[str, ...],
    instruction: str | None,
    top: int,
    model: str | None,
    recipe: str | None,
    no_think: bool,
    max_trace_tokens: int | None,
    deadline_ms: float | None,
    hide_traces: bool,
    reasoner: str | None,
    reasoner_model: str | None,
    traces: str | None,
    as_json: bool,
    **engine: Any,
) -> None:
    """Find what answers QUESTION, a text, a picture (--image), or both.

    Prints rank, cosine similarity and path. The search is exact: the question is compared with every document. An index
    of another fingerprint is refused.
    """
    if question is None and not images:
        raise OptionError("nothing is asked. Give a QUESTION, an --image, or both.")
    think = thinking(no_think, max_trace_tokens, deadline_ms)
    parts = system(reasoner, reasoner_model, traces)
    from tte_runtime.embedder import Embedder
    from tte_runtime.index import Index

    opened = Index.open(index_path.expanduser())
    model = model or opened.settings.model
    with Embedder.from_pretrained(model, recipe=recipe, **parts, **engine) as embedder:
        opened.check_fingerprint(embedder.fingerprint, model)
        item = {"text": question or "", "images": list(images), "instruction": instruction}
        result = embedder.embed(item, role="query", think=think, truncate_dim=opened.settings.truncate_dim)
    if result.trace and not hide_traces:
        click.echo(f"{result.trace} [{result.finish_reason}]", err=True)
    hits = opened.search(result.vector, top)
    if as_json:
        found = {"trace": result.trace, "finish_reason": result.finish_reason, "hits": [asdict(hit) for hit in hits]}
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    for hit in hits:
        click.echo(f"{hit.rank:>3}  {hit.score:.4f}  {hit.path}")
