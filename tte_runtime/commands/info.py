"""`tte env`: what is installed, what is seen, and what "auto" becomes for a model. Prints; `env.py` finds out."""

from __future__ import annotations

import json
from typing import Any

import click

from tte_runtime.commands.options import engine_options


@click.command()
@click.option("--model", help="Load this checkpoint and say what every auto becomes for it.")
@engine_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
def env(model: str | None, as_json: bool, **engine: Any) -> None:
    """Print versions, devices, environment variables, and what would run."""
    from tte_runtime.env import report

    rows = report(model, **engine)
    if as_json:
        click.echo(json.dumps(dict(rows), indent=2))
        return
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")
