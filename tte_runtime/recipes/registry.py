"""Which recipes there are, and which one a checkpoint asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tte_runtime.errors import RecipeError, one_of
from tte_runtime.recipes.base import Recipe
from tte_runtime.recipes.last_token import last_token
from tte_runtime.recipes.unified import unified

NAMES = ("last_token", "tte_u")


def read_tte_json(folder: Path) -> dict[str, Any] | None:
    """The checkpoint's own `tte.json`, or `None` where it has none; raises RecipeError where it is no JSON object."""
    path = folder / "tte.json"
    if not path.is_file():
        return None
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecipeError(f"{path} is no valid JSON: {error}.") from error
    if not isinstance(entry, dict):
        raise RecipeError(f"{path} must hold a JSON object, got {type(entry).__name__}.")
    return entry


def choose_recipe(folder: Path, recipe: str | Recipe | None) -> Recipe:
    """The recipe that was asked for, or the one the checkpoint's files name.

    Raises:
        RecipeError: the name is unknown, the checkpoint does not say, or it lacks what the recipe needs.
    """
    if isinstance(recipe, Recipe):
        return recipe
    entry = read_tte_json(folder)
    name = recipe if recipe is not None else (entry or {}).get("recipe")
    if name is None:
        raise RecipeError(
            f"{folder} does not say how it embeds (it has no tte.json). Name a recipe: {', '.join(NAMES)}."
        )
    if name == "last_token":
        return last_token()
    if name == "tte_u":
        if entry is None:
            raise RecipeError(f"recipe 'tte_u' needs a tte.json with a head, and {folder} has none.")
        return unified(entry)
    raise RecipeError(one_of("recipe", name, NAMES))
