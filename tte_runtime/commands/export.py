"""`tte export`: data of this project in other people's layouts. Knows options; `evaluation/` does the work."""

from __future__ import annotations

from pathlib import Path

import click

from tte_runtime.commands.group import PlainGroup


@click.group(cls=PlainGroup)
def export() -> None:
    """Write data of this project in other layouts."""


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
