"""Under which recipe a stage trains, and what it leaves in `tte.json`: the base's own prompts, read in another way.

What a checkpoint says of itself (its `tte.json`) goes before the defaults of the registry, so that reasoner, embedder
and head that come from one base are prompted alike and traces pass between them as token ids. Knows no weights.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tte_runtime.errors import RecipeError
from tte_runtime.loading import default_recipe
from tte_runtime.recipes.base import Recipe
from tte_runtime.recipes.chat import TERMINAL
from tte_runtime.recipes.registry import choose_recipe


def writing(folder: Path, name: str | None) -> Recipe:
    """The recipe of a reasoner: of its vector nothing is said but that it is the last token's.

    Raises:
        RecipeError: the recipe has no stop token, so nobody would know where a trace ends.
    """
    chosen = _chosen(folder, name, "reasoner")
    if not chosen.stop or chosen.max_trace_tokens < 1:
        raise RecipeError(
            f"recipe {chosen.name!r} writes no traces: it has no stop token or no limit. Name one that does, "
            "such as reasoner."
        )
    return replace(
        chosen, name="reasoner", readout="last", marker=None, close=(), suffix=(), at_once=(), trace_from="itself"
    )


def reading(folder: Path, name: str | None) -> Recipe:
    """The recipe of an embedder: as asked for, else as TTE_s embeds what a reasoner with the base's prompts wrote.

    Raises:
        RecipeError: it reads its vector through a head, or in a trace of the model's own.
    """
    chosen = _chosen(folder, name, "tte_s")
    if chosen.readout == "generated_marker":
        raise RecipeError(
            f"recipe {chosen.name!r} reads its vector at a token that the model writes itself, which cannot be trained "
            "here. Name another recipe, such as tte_s."
        )
    if name is not None and chosen.readout == "head":
        raise RecipeError(f"recipe {chosen.name!r} has a head: train it with `tte train head`, or name another recipe.")
    if name is not None or chosen.trace_from == "reasoner" or not chosen.stop:
        return chosen
    return replace(_closed(chosen), name="tte_s", readout="last", trace_from="reasoner")


def unified(folder: Path, name: str | None) -> Recipe:
    """The recipe of TTE_u on a reasoner: it thinks as that does, and a head reads its states at the terminal token."""
    return replace(
        _closed(writing(folder, name), _chosen(folder, name, "reasoner").suffix), name="tte_u", readout="head"
    )


def _chosen(folder: Path, name: str | None, default: str) -> Recipe:
    return choose_recipe(folder, name or default_recipe(folder, default))


def _closed(recipe: Recipe, suffix: tuple[str, ...] = ()) -> Recipe:
    """The recipe with a trace closed by its first stop token, and a terminal token behind it."""
    return replace(
        recipe, marker=None, at_once=(), close=recipe.stop[:1], suffix=suffix or recipe.suffix or (TERMINAL,)
    )
