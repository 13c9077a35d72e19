"""`tte traces export` and `tte traces import`: a store of traces as JSONL, and back. Knows files; loads no model."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import click

from tte_runtime.commands.group import PlainGroup
from tte_runtime.errors import TraceStoreError


@click.group(cls=PlainGroup)
def traces() -> None:
    """Export stored traces to JSONL, and import them."""


store_option = click.option(
    "--traces",
    "path",
    default="traces.sqlite",
    show_default=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The store, as `tte embed --traces` keeps it.",
)


@traces.command()
@click.argument("out", metavar="FILE", type=click.File("w", encoding="utf-8", atomic=True))
@store_option
def export(out: IO[str], path: Path) -> None:
    """Write every trace of the store to FILE, or - for stdout: one JSON object a line, with the hashes of its key."""
    from tqdm import tqdm

    from tte_runtime.traces.exchange import export_lines
    from tte_runtime.traces.store import TraceStore

    if not path.expanduser().is_file():
        raise TraceStoreError(f"there is no trace store {path}. Name the file that --traces was given.")
    with TraceStore(path) as store:
        count = 0
        for line in tqdm(export_lines(store), "exporting", total=len(store), unit="trace", disable=None, leave=False):
            out.write(line)
            count += 1
    click.echo(f"{count} traces exported from {path}", err=True)


@traces.command("import")
@click.argument("source", metavar="FILE", type=click.File("rb"))
@store_option
def import_(source: IO[bytes], path: Path) -> None:
    """Put the traces of FILE, or of stdin for -, into the store; those it has already are replaced.

    A line that is none of an export ends the import; what was imported before it stays.
    """
    from tqdm import tqdm

    from tte_runtime.traces.exchange import import_lines
    from tte_runtime.traces.store import TraceStore

    count = 0
    with TraceStore(path) as store, tqdm(desc="importing", unit="trace", disable=None, leave=False) as bar:
        try:
            for taken in import_lines(store, source):
                count += taken
                bar.update(taken)
        finally:
            bar.close()
            click.echo(f"{count} traces imported into {path}", err=True)
