"""`tte train`: the stages of Think-Then-Embed training on one's own base and data, and the preset that made tte-tiny.

Knows options; the stages are in `training/`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tte_runtime.commands.group import PlainGroup
from tte_runtime.commands.options import engine_options, reasoner_of, thinking
from tte_runtime.errors import MissingExtraError, OptionError

if TYPE_CHECKING:
    from tte_runtime.training.stages.run import Options

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


@click.group(cls=PlainGroup)
def train() -> None:
    """Train your own: traces, then a reasoner on them, then an embedder, or a head on the reasoner.

    Each prints the folder that it has finished. See docs/training.md.
    """


def _check_extra() -> None:
    try:
        import accelerate  # noqa: F401
        import peft  # noqa: F401
        import sentence_transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"training needs {error.name}, which is not installed. Run: pip install 'tte-runtime[train]'"
        ) from error


def _decorated(command: Decorated, options: list[Any]) -> Decorated:
    for option in reversed(options):
        command = option(command)
    return command


def places(base_help: str) -> Callable[[Decorated], Decorated]:
    """--base, --data and --out."""
    return lambda command: _decorated(
        command,
        [
            click.option("--base", required=True, metavar="MODEL", help=base_help),
            click.option(
                "--data",
                required=True,
                type=click.Path(path_type=Path),
                help='JSONL, or a folder with data.jsonl: {"query": ..., "positive": ..., "negatives": [...]} a line.',
            ),
            click.option(
                "--out",
                required=True,
                type=click.Path(path_type=Path, file_okay=False),
                help="Folder of the result. A finished one is left as it is, an interrupted run goes on.",
            ),
        ],
    )


def optimisation(
    epochs: float, batch_size: int, mini_batch: int, learning_rate: float
) -> Callable[[Decorated], Decorated]:
    """How a stage is trained, with its defaults; see `options_of`."""
    return lambda command: _decorated(
        command,
        [
            click.option("--recipe", help="Prompts and readout; by default what the base says of itself."),
            click.option("--epochs", default=epochs, show_default=True, help="Passes over the data."),
            click.option("--batch-size", default=batch_size, show_default=True, help="Examples to a step."),
            click.option(
                "--mini-batch", default=mini_batch, show_default=True, help="Sequences at once: what bounds memory."
            ),
            click.option("--learning-rate", default=learning_rate, show_default=True, help="The highest."),
            click.option("--seed", default=0, show_default=True, help="Of the order and of new weights."),
            click.option("--save-every", default=100, show_default=True, help="Steps between two saved states."),
            click.option(
                "--device",
                default="auto",
                show_default=True,
                help="auto, cpu, cuda (CUDA_VISIBLE_DEVICES chooses one).",
            ),
            click.option(
                "--precision",
                default="auto",
                show_default=True,
                help="Of matrix products: float32, bfloat16; auto is bfloat16 on a GPU.",
            ),
        ],
    )


def adapters(by_default: bool) -> Callable[[Decorated], Decorated]:
    """--full or --lora, with --rank and --alpha."""
    return lambda command: _decorated(
        command,
        [
            click.option(
                "--lora/--full", default=by_default, show_default=True, help="Train an adapter, or whole weights."
            ),
            click.option("--rank", default=16, show_default=True, help="Of the adapter."),
            click.option(
                "--alpha", default=64, show_default=True, help="Of the adapter: it counts alpha / rank times."
            ),
        ],
    )


def options_of(given: dict[str, Any]) -> Options:
    """The stage's options out of the command's, which are left with what remains."""
    _check_extra()
    from tte_runtime.training.stages.run import Options

    lora, rank, alpha = (given.pop(name, None) for name in ("lora", "rank", "alpha"))
    names = ("epochs", "batch_size", "mini_batch", "learning_rate", "seed", "save_every")
    how = {name: given.pop(name) for name in (*names, "device", "precision")}
    return Options(lora=(rank, alpha) if lora else None, recompute=given.pop("recompute", False), **how)


recompute_option = click.option(
    "--recompute", is_flag=True, help="Keep only the inputs of layers, and compute the rest of them twice."
)
negatives_option = click.option(
    "--negatives", type=click.IntRange(min=0), help="Hard negatives a query; by default as many as every line has."
)


@train.command()
@places("The teacher: a checkpoint, or a chat endpoint such as http://localhost:8000/v1 (its key: OPENAI_API_KEY).")
@click.option("--endpoint-model", metavar="NAME", help="What the endpoint calls its model.")
@click.option("--role", "roles", multiple=True, type=click.Choice(["query", "document"]), help="Only these items.")
@click.option("--max-trace-tokens", type=click.IntRange(min=1), metavar="N", help="A longer trace is a failure.")
@engine_options
@click.pass_context
def traces(
    context: click.Context,
    /,
    base: str,
    data: Path,
    out: Path,
    endpoint_model: str | None,
    roles: tuple[Any, ...],
    max_trace_tokens: int | None,
    **engine: Any,
) -> None:
    """Have a teacher write traces into the data: OUT/data.jsonl is the data with them.

    Traces are kept in OUT/traces.sqlite as they come; a second call asks only for those that are missing. An item that
    fails loses no other: it is named on stderr and in OUT/failures.jsonl, and the exit code is 1.
    """
    from tte_runtime.training.stages.traces import write_traces

    teacher = reasoner_of(base, endpoint_model, ("--base", "--endpoint-model"))
    think: Any = thinking(False, max_trace_tokens)
    done = write_traces(teacher, data, out, roles=roles or None, think=think, options=engine)
    click.echo(done.folder)
    if done.num_failed:
        context.exit(1)


@train.command()
@places("The model to finetune: a folder, a bundled checkpoint, or a hub id.")
@adapters(False)
@recompute_option
@optimisation(1.0, 128, 1, 2e-5)
def reasoner(base: str, data: Path, out: Path, recipe: str | None, **given: Any) -> None:
    """Finetune a reasoner on the traces of the data; its vision tower stays as it is."""
    options = options_of(given)
    from tte_runtime.training.stages.reasoner import train_reasoner

    click.echo(train_reasoner(base, data, out, recipe=recipe, options=options))


@train.command()
@places("The model to train: a folder, a bundled checkpoint, or a hub id.")
@adapters(True)
@negatives_option
@recompute_option
@optimisation(1.0, 8192, 16, 1e-4)
def embedder(base: str, data: Path, out: Path, recipe: str | None, negatives: int | None, **given: Any) -> None:
    """Train an embedder by InfoNCE over large batches, with the traces of the data where it has some."""
    options = options_of(given)
    from tte_runtime.training.stages.embedder import train_embedder

    click.echo(train_embedder(base, data, out, recipe=recipe, negatives=negatives, options=options))


@train.command()
@places("The reasoner whose states are read: a folder, a bundled checkpoint, or a hub id.")
@click.option(
    "--kind",
    default="decoder_layers",
    show_default=True,
    help="Of head: decoder_layers, attention_pooler, latent_attention, qformer.",
)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    metavar="NAME=N",
    help="Of the head (repeatable), such as num_layers=8 or readout=mean of decoder_layers, num_queries=32 of qformer.",
)
@click.option(
    "--tap", type=int, metavar="N", help="The head reads the states after N layers; by default 8 before the end."
)
@negatives_option
@optimisation(1.0, 8192, 16, 1e-4)
def head(
    base: str,
    data: Path,
    out: Path,
    kind: str,
    sizes: tuple[str, ...],
    tap: int | None,
    recipe: str | None,
    negatives: int | None,
    **given: Any,
) -> None:
    """Train an embedding head on a frozen reasoner: one model then thinks and embeds (TTE_u)."""
    options = options_of(given)
    from tte_runtime.training.stages.head import train_head

    how: dict[str, Any] = {"tap_layer": tap, "recipe": recipe, "negatives": negatives}
    click.echo(train_head(base, data, out, kind=kind, sizes=sizes_in(sizes), options=options, **how))


def sizes_in(given: tuple[str, ...]) -> dict[str, Any]:
    """NAME=N options as a mapping; raises OptionError for one of another form."""
    found: dict[str, Any] = {}
    for one in given:
        name, _, value = one.partition("=")
        if not (value.isdecimal() or (name == "readout" and value)):
            raise OptionError(f"--size must be NAME=N with a whole number N, or readout=last or mean, got {one!r}.")
        found[name] = int(value) if value.isdecimal() else value
    return found


@train.command()
@click.option(
    "--out",
    default="runs/tte-tiny",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the run; finished stages found there are taken as they are, interrupted ones go on.",
)
@click.option("--seed", default=0, show_default=True, help="Of weights, scenes, questions and order.")
@click.option(
    "--stage",
    "stages",
    multiple=True,
    help="Only this stage (repeatable): tower, traces, reasoner, head, checkpoint.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N.")
def tiny(out: Path, seed: int, stages: tuple[str, ...], device: str) -> None:
    """Train tte-tiny, the bundled model, from nothing: about two hours on a CPU core.

    Prints the finished checkpoint's folder, which `--model` takes everywhere.
    """
    _check_extra()
    from tte_runtime.training.tiny import STAGES, train_tiny

    click.echo(train_tiny(out, seed=seed, stages=stages or STAGES, device=device))
