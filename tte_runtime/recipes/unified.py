"""TTE_u, the paper's unified model: one backbone writes the trace, a head over its tapped states embeds.

No weights of the paper exist and it leaves the layout open, so ours is pinned in the checkpoint's `tte.json`:
{"recipe": "tte_u", "roles": {role: {"prompt", "think"}}, "stop", "close", "suffix", "max_trace_tokens", "head": {...}}.
"""

from __future__ import annotations

from typing import Any

from tte_runtime.errors import RecipeError, one_of
from tte_runtime.recipes.base import Recipe, RolePrompt

FIELDS = ("recipe", "roles", "stop", "close", "suffix", "max_trace_tokens", "head")


def unified(entry: dict[str, Any]) -> Recipe:
    """The recipe of a parsed `tte.json`; raises RecipeError for unknown or missing fields."""
    for field in entry:
        if field not in FIELDS:
            raise RecipeError("tte.json: " + one_of("field", field, FIELDS))
    for field in FIELDS:
        if field not in entry:
            raise RecipeError(f"tte.json: the field {field!r} is missing.")
    try:
        roles = {role: RolePrompt(**prompt) for role, prompt in entry["roles"].items()}
    except (TypeError, AttributeError) as error:
        raise RecipeError(f"tte.json: every role needs exactly a prompt and think ({error}).") from error
    return Recipe(
        name="tte_u",
        roles=roles,
        readout="head",
        stop=tuple(entry["stop"]),
        close=tuple(entry["close"]),
        suffix=tuple(entry["suffix"]),
        max_trace_tokens=entry["max_trace_tokens"],
    )
