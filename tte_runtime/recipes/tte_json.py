"""A recipe as a JSON file beside the checkpoint: `tte.json`.

    {"recipe": NAME, FIELD: VALUE, ..., "head": {...}}

The fields are those of `Recipe`. Where the name is of the registry, they replace that recipe's own; under any other
name "roles" and "readout" are needed. "head" belongs to the readout of that name and is read by `heads/`. Knows files
and fields; knows no recipe by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from tte_runtime.errors import RecipeError, one_of
from tte_runtime.recipes.base import MediaRules, Recipe, RolePrompt

FIELDS = tuple(field.name for field in fields(Recipe) if field.name != "name")
TOKENS = ("stop", "close", "suffix", "at_once")


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


def recipe_from_json(entry: Mapping[str, Any], known: Mapping[str, Callable[[], Recipe]]) -> Recipe:
    """The recipe of a parsed `tte.json`.

    Args:
        entry: the object.
        known: makers of the registry's recipes, by name.

    Raises:
        RecipeError: a field is unknown, missing or of another type, or the recipe's parts do not fit together.
    """
    for field in entry:
        if field not in (*FIELDS, "recipe", "head"):
            raise RecipeError("tte.json: " + one_of("field", field, ("recipe", *FIELDS, "head")))
    name = entry.get("recipe")
    if not isinstance(name, str):
        raise RecipeError(
            f'tte.json: "recipe" must be a name, got {name!r}. Known: {", ".join(known)}, or one of your own.'
        )
    given = {field: _value(field, value) for field, value in entry.items() if field in FIELDS}
    try:
        if name in known:
            return replace(known[name](), **given)
        if "roles" not in given or "readout" not in given:
            raise RecipeError(one_of("recipe", name, tuple(known)) + ' Your own needs "roles" and "readout".')
        return Recipe(name=name, **given)
    except TypeError as error:
        raise RecipeError(
            f"tte.json: a field of recipe {name!r} is of another type than it must be ({error})."
        ) from error


def as_tte_json(recipe: Recipe) -> dict[str, Any]:
    """What a `tte.json` must hold for `recipe`, its "head" excepted."""
    entry = recipe.to_json()
    return {"recipe": entry.pop("name"), **entry}


def _value(field: str, value: Any) -> Any:
    """A field's value, from JSON's types to the recipe's."""
    try:
        if field == "roles":
            return {role: RolePrompt(**prompt) for role, prompt in value.items()}
        if field == "media":
            rules: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in value.items()}
            return MediaRules(**rules)
    except (TypeError, AttributeError) as error:
        raise RecipeError(f'tte.json: "{field}" is not as it must be ({error}).') from error
    if field in TOKENS:
        if not isinstance(value, list) or not all(isinstance(token, str) for token in value):
            raise RecipeError(f'tte.json: "{field}" must be a list of tokens, got {value!r}.')
        return tuple(value)
    return value
