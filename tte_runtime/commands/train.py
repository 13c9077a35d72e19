"""`tte train`: training runs that this project ships, by name. Knows their options; the stages are in `training/`."""

from __future__ import annotations

from pathlib import Path

import click

from tte_runtime.commands.group import PlainGroup
from tte_runtime.errors import MissingExtraError


@click.group(cls=PlainGroup)
def train() -> None:
    """Train a model."""


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
    """Train tte-tiny, the bundled model, from nothing: hours on two CPU cores, minutes on a GPU.

    Prints the finished checkpoint's folder, which `--model` takes everywhere.
    """
    try:
        import accelerate  # noqa: F401
        import sentence_transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"training needs {error.name}, which is not installed. Run: pip install 'tte-runtime[train]'"
        ) from error
    from tte_runtime.training.tiny import STAGES, train_tiny

    click.echo(train_tiny(out, seed=seed, stages=stages or STAGES, device=device))
