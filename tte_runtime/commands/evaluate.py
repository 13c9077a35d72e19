"""`tte eval`: a model on benchmarks, by name. Knows options and printing; the work is in `tte_runtime.evaluation`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tte_runtime.commands.evaluate_scenes import scenes
from tte_runtime.commands.group import PlainGroup
from tte_runtime.commands.options import engine_options, system, system_options, thinking

if TYPE_CHECKING:
    from tte_runtime.evaluation.mmeb.catalogue import Dataset
    from tte_runtime.evaluation.mmeb.run import Outcome

SHOWN = 5  # failed items of a dataset that are named on stderr; all stand in a file


@click.group("eval", cls=PlainGroup)
def evaluate() -> None:
    """Evaluate models: on data that you have, or on our scenes."""


evaluate.add_command(scenes)


@evaluate.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Where vectors and scores are kept.")
@click.option("--model", default="tte-tiny", show_default=True, help="A bundled checkpoint, a folder, or a hub id.")
@click.option("--recipe", help="Where the checkpoint does not say how it embeds, or another way is wanted.")
@click.option("--datasets", "names", multiple=True, metavar="NAME", help="Only this dataset (repeatable).")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N queries of each; for trials.")
@click.option("--no-think", is_flag=True, help="Embed at once, without a trace.")
@click.option("--max-trace-tokens", type=int, metavar="N", help="Close a trace after N tokens; 0 embeds at once.")
@click.option("--batch-size", type=int, metavar="N", help="Most requests in work at once.")
@system_options
@engine_options
@click.pass_context
def mmeb(
    context: click.Context,
    /,
    folder: Path,
    out: Path,
    model: str,
    recipe: str | None,
    names: tuple[str, ...],
    limit: int | None,
    no_think: bool,
    max_trace_tokens: int | None,
    batch_size: int | None,
    reasoner: str | None,
    reasoner_model: str | None,
    traces: str | None,
    **engine: Any,
) -> None:
    """Score a model on MMEB-V2, from your copy of the data in DIR (docs/evaluation.md says what must lie where).

    Hit@1 for images and videos, linear NDCG@5 for visual documents, unweighted means over datasets. A run that was
    stopped goes on where it was, with the same --out. What fails is a miss, is named on stderr, and makes the exit code
    1. A table goes to stdout, the leaderboard's JSON to OUT/MODEL.json.
    """
    thinking(no_think, max_trace_tokens)
    parts = system(reasoner, reasoner_model, traces)
    from tte_runtime import __version__
    from tte_runtime.embedder import Embedder
    from tte_runtime.evaluation.mmeb.load import choose_datasets
    from tte_runtime.evaluation.mmeb.report import leaderboard_json, table
    from tte_runtime.evaluation.mmeb.run import evaluate_mmeb, write_json
    from tte_runtime.evaluation.mmeb.vectors import How

    folder, out = folder.expanduser(), out.expanduser()
    datasets = choose_datasets(folder, names)  # before a model is loaded
    how = How(model, False if no_think else None, max_trace_tokens, batch_size)
    with Embedder.from_pretrained(model, recipe=recipe, **parts, **engine) as embedder:
        click.echo(f"{model}: {embedder.config.describe()}", err=True)
        outcomes = evaluate_mmeb(embedder, folder, datasets, out, how=how, limit=limit, tell=tell)
        run = {
            "version": __version__,
            "recipe": embedder.recipe.name,
            "fingerprint": embedder.fingerprint,
            "think": how.think,
            "max_trace_tokens": max_trace_tokens,
            "limit": limit,
        }
        name = Path(model).expanduser().resolve().name
        report = leaderboard_json(outcomes, name, embedder.embedding_dim, run)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"{name}.json", report)
    click.echo("\n".join(table(outcomes, limit)))
    click.echo(f"{out / name}.json written", err=True)
    if any(isinstance(outcome, Exception) or outcome.failed for outcome in outcomes.values()):
        context.exit(1)


def tell(dataset: Dataset, outcome: Outcome) -> None:
    """Say on stderr what came of a dataset."""
    from tte_runtime.evaluation.mmeb.metrics import MAIN

    if isinstance(outcome, Exception):
        click.echo(f"{dataset.name}: left out. {outcome}", err=True)
        return
    main = MAIN[dataset.modality]
    click.echo(f"{dataset.name}: {main} {100 * outcome.metrics[main]:.1f}", err=True)
    for item, error in list(outcome.failed.items())[:SHOWN]:
        click.echo(f"{dataset.name}, {item}: {error}", err=True)
    if len(outcome.failed) > SHOWN:
        click.echo(
            f"{dataset.name}: {len(outcome.failed)} items failed; all are in {dataset.name}_failed.json", err=True
        )
