"""Which recipes there are, and which one a checkpoint gets: as asked, as its `tte.json` says, or as its files show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tte_runtime.errors import RecipeError, one_of
from tte_runtime.recipes import last_token, rge, tte, ume_r1
from tte_runtime.recipes.base import Recipe
from tte_runtime.recipes.detect import FOUND, detect
from tte_runtime.recipes.tte_json import read_tte_json, recipe_from_json


@dataclass(frozen=True)
class Entry:
    """A recipe of the registry.

    Attributes:
        make: makes it.
        about: what it is for, in a few words.
        found: by what a checkpoint of it is recognised; "" where only its name will do.
    """

    make: Callable[[], Recipe]
    about: str
    found: str = ""


RECIPES = {
    "tte_u": Entry(tte.unified, "TTE_u: one backbone writes the trace, a head embeds", "tte.json"),
    "tte_s": Entry(partial(tte.embedder, "tte_s"), "TTE_s: embeds what a small reasoner wrote", "tte.json"),
    "tte_t": Entry(partial(tte.embedder, "tte_t"), "TTE_t: embeds what a large teacher wrote", "tte.json"),
    "reasoner": Entry(tte.reasoner, "writes traces for TTE_s and TTE_t", "tte.json"),
    "ume_r1": Entry(ume_r1.ume_r1, "UME-R1: thinks, then <gen_emb>", FOUND["ume_r1"]),
    "ume_r1_disc": Entry(ume_r1.ume_r1_disc, "UME-R1 without a trace: <disc_emb> in the prompt"),
    "rge": Entry(rge.rge, "RGE: queries think, then <emb>; documents at once", FOUND["rge"]),
    "vlm2vec": Entry(last_token.vlm2vec, "VLM2Vec-V2: no chat template", FOUND["vlm2vec"]),
    "gme": Entry(last_token.gme, "GME-Qwen2-VL: read at <|endoftext|>", FOUND["gme"]),
    "qwen3_vl_embedding": Entry(
        last_token.qwen3_vl_embedding, "Qwen3-VL-Embedding: instruction first", FOUND["qwen3_vl_embedding"]
    ),
    "last_token": Entry(last_token.last_token, "pictures, then text, and nothing else"),
}
NAMES = tuple(RECIPES)


def rows() -> list[tuple[str, str, str, str, str]]:
    """A table of the registry: name, what it is for, roles that think, where the vector is read, how it is found."""
    return [_row(entry.make(), entry) for entry in RECIPES.values()]


def _row(recipe: Recipe, entry: Entry) -> tuple[str, str, str, str, str]:
    thinking = [role for role, prompt in recipe.roles.items() if prompt.think]
    thinks = "both" if len(thinking) == 2 else "".join(thinking) or "–"
    read_at = {"last": "last token", "marker": f"{recipe.marker} of the prompt"}.get(recipe.readout, recipe.readout)
    if recipe.readout == "generated_marker":
        read_at = f"last {recipe.marker} of the trace"
    return recipe.name, entry.about, thinks, read_at, entry.found or "its name only"


def choose_recipe(folder: Path, recipe: str | Recipe | None) -> Recipe:
    """The recipe that was asked for, or the one the checkpoint's files name.

    Args:
        folder: the checkpoint.
        recipe: a recipe, the name of one (of the registry, or of the checkpoint's `tte.json`), or `None`.

    Raises:
        RecipeError: the name is unknown, the checkpoint says none or several, or it lacks what the recipe needs.
    """
    entry = read_tte_json(folder)
    if isinstance(recipe, Recipe):
        chosen = recipe
    elif entry is not None and recipe in (None, entry.get("recipe")):
        chosen = recipe_from_json(entry, {name: known.make for name, known in RECIPES.items()})
    elif recipe is None:
        chosen = RECIPES[detect(folder, NAMES)].make()
    elif recipe in RECIPES:
        chosen = RECIPES[recipe].make()
    else:
        raise RecipeError(one_of("recipe", recipe, NAMES))
    if chosen.readout == "head" and "head" not in (entry or {}):
        raise RecipeError(f"recipe {chosen.name!r} needs a tte.json with a head, and {folder} has none.")
    return chosen
