"""`tte recipes`: which recipes there are, what one of them says, which one a checkpoint gets. Loads no weights."""

from __future__ import annotations

import json

import click

from tte_runtime.errors import OptionError, one_of


@click.command()
@click.argument("name", required=False)
@click.option("--model", help="Print the recipe that this checkpoint gets.")
@click.option("--json", "as_json", is_flag=True, help="All of them, a JSON object a line.")
def recipes(name: str | None, model: str | None, as_json: bool) -> None:
    """List the recipes: how checkpoints embed, and by what they are recognised.

    With NAME, or --model, print that recipe as a tte.json: beside a checkpoint it makes the recipe that checkpoint's.
    """
    if sum((name is not None, model is not None, as_json)) > 1:
        raise OptionError("give a NAME, or --model, or --json.")
    from tte_runtime.models.checkpoint import find_folder
    from tte_runtime.recipes.registry import RECIPES, choose_recipe, rows
    from tte_runtime.recipes.tte_json import as_tte_json

    if model is not None:
        click.echo(json.dumps(as_tte_json(choose_recipe(find_folder(model), None)), indent=2, ensure_ascii=False))
    elif name is not None:
        if name not in RECIPES:
            raise OptionError(one_of("recipe", name, tuple(RECIPES)))
        click.echo(json.dumps(as_tte_json(RECIPES[name].make()), indent=2, ensure_ascii=False))
    elif as_json:
        for entry in RECIPES.values():
            click.echo(json.dumps(as_tte_json(entry.make()), ensure_ascii=False))
    else:
        table = [("name", "what", "thinks on", "read at", "found by"), *rows()]
        widths = [max(len(row[column]) for row in table) for column in range(4)]
        for row in table:
            click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, [*widths, 0], strict=True)).rstrip())
