"""`tte export`: data of this project in layouts of files. Knows options; `evaluation/` and `scenes/` do the work."""

from __future__ import annotations

from pathlib import Path

import click

from tte_runtime.commands.group import PlainGroup


@click.group(cls=PlainGroup)
def export() -> None:
    """Write data of this project to files."""


@export.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--per-kind",
    default=100,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Questions of each kind.",
)
@click.option(
    "--pool", default=1000, show_default=True, type=click.IntRange(min=1), metavar="N", help="Documents, at least."
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), metavar="N", help="Of questions and drawings."
)
def scenes(folder: Path, per_kind: int, pool: int, seed: int) -> None:
    """Write the held-out scenes as image datasets of MMEB's layout, one a kind, into the new folder DIR.

    Run them with `tte eval mmeb DIR`, or another model with VLM2Vec's own code; DIR/README.md says how. The names of
    the datasets go to stdout.
    """
    from tte_runtime.evaluation.scenes import make_pool, make_tests
    from tte_runtime.evaluation.scenes_export import export_scenes

    tests = make_tests(per_kind, seed)
    for name in export_scenes(folder.expanduser(), tests, make_pool(tests, seed, pool)):
        click.echo(name)


@export.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--count", default=1000, show_default=True, type=click.IntRange(min=1), metavar="N", help="Questions, of all kinds."
)
@click.option(
    "--negatives", default=2, show_default=True, type=click.IntRange(min=0), metavar="N", help="Near misses a question."
)
@click.option("--traces", is_flag=True, help="With the teacher's traces: the ground truth of the scenes, in words.")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), metavar="N", help="Of questions and drawings."
)
def training(folder: Path, count: int, negatives: int, traces: bool, seed: int) -> None:
    """Write questions about training scenes as JSONL for `tte train`, with their pictures, into the new folder DIR.

    Scenes and combinations are others than those of `tte export scenes`. Prints DIR.
    """
    from tte_runtime.scenes.training_data import export_training

    export_training(folder.expanduser(), count=count, seed=seed, negatives=negatives, traces=traces)
    click.echo(folder)
