"""docs/recipes.md: its table is the registry, its fields are the recipe's, its examples run and say the same twice."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

from tte_runtime import Embedder, MediaRules, Recipe
from tte_runtime.recipes.registry import NAMES, RECIPES, choose_recipe, rows
from tte_runtime.recipes.template import TIDY

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")


def block(language: str, holding: str) -> str:
    (found,) = [text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.S) if holding in text]
    return str(found)


def markdown(cell: str) -> str:
    """Tokens as code, or a browser takes them for tags; bars escaped, as tables need it."""
    return re.sub(r"<[^ >]+>", lambda match: f"`{match[0]}`", cell).replace("|", "\\|")


def test_the_table_is_the_registry() -> None:
    lines = [f"| `{name}` | " + " | ".join(map(markdown, cells)) + " |" for name, *cells in rows()]
    assert "\n".join(lines) in PAGE, "the table should be:\n" + "\n".join(lines)
    assert [row[0] for row in rows()] == list(NAMES)


def test_every_field_is_explained() -> None:
    table = PAGE[PAGE.index("| field |") :]
    for name in (*(f.name for f in fields(Recipe) if f.name != "name"), *(f.name for f in fields(MediaRules)), *TIDY):
        assert f"`{name}`" in table, name


def test_instructions_have_a_place_where_the_page_says_so() -> None:
    said = PAGE[PAGE.index("## Instructions") : PAGE.index("## One of your own")]
    for name, entry in RECIPES.items():
        if name not in ("reasoner", "last_token"):
            assert (f"`{name}`" in said) == entry.make().takes_instruction, name


def test_the_two_forms_of_the_example_are_one_recipe(tmp_path: Path) -> None:
    scope: dict[str, object] = {}
    exec(block("python", "mean_of_everything"), scope)
    assert scope["vector"].shape == (192,)  # type: ignore[attr-defined]
    (tmp_path / "tte.json").write_text(block("json", "mean_of_everything"))
    assert choose_recipe(tmp_path, None) == scope["recipe"]
    (small,) = re.findall(r'`(\{"recipe": "rge".*?\})`', PAGE)
    (tmp_path / "tte.json").write_text(small)
    assert choose_recipe(tmp_path, None).max_trace_tokens == json.loads(small)["max_trace_tokens"]


def test_the_instructions_example() -> None:
    with Embedder.from_pretrained("tte-tiny", recipe="gme") as embedder:
        exec(block("python", "Find the picture"), {"embedder": embedder})
