"""Which recipe a checkpoint gets: as asked, as its tte.json says, as its files show; and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from recipe_checkpoints import byte_tokenizer
from transformers import Qwen2Config

from tte_runtime import Embedder, MediaRules, Recipe, RolePrompt
from tte_runtime.errors import OptionError, RecipeError, TraceError
from tte_runtime.models.checkpoint import find_folder
from tte_runtime.recipes.detect import FOUND, MARKS
from tte_runtime.recipes.registry import NAMES, RECIPES, choose_recipe
from tte_runtime.recipes.tte_json import recipe_from_json

MAKERS = {name: entry.make for name, entry in RECIPES.items()}


def folder_with(path: Path, **files: Any) -> Path:
    """A folder of files without weights; a key's `__` is a dot."""
    path.mkdir(parents=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (path / name.replace("__", ".")).write_text(text)
    return path


def added(*tokens: str) -> dict[str, Any]:
    return {"added_tokens": [{"content": token} for token in tokens]}


QWEN2, QWEN25, QWEN3 = ({"model_type": name} for name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"))
ADAPTER = {"base_model_name_or_path": "Qwen/Qwen2-VL-2B-Instruct"}


@pytest.mark.parametrize(
    ("name", "files", "expected"),
    [
        ("x", {"config__json": QWEN2, "tokenizer__json": added("<gen_emb>", "<disc_emb>")}, "ume_r1"),
        ("x", {"config__json": QWEN2, "added_tokens__json": {"<gen_emb>": 1, "<disc_emb>": 2}}, "ume_r1"),
        (
            "x",
            {
                "config__json": QWEN2,
                "tokenizer_config__json": {
                    "added_tokens_decoder": {"7": {"content": "<gen_emb>"}, "8": {"content": "<disc_emb>"}}
                },
            },
            "ume_r1",
        ),
        ("x", {"config__json": QWEN25, "tokenizer__json": added("<emb>")}, "rge"),
        ("VLM2Vec-V2.0", {"adapter_config__json": ADAPTER}, "vlm2vec"),
        ("models--VLM2Vec--VLM2Vec-V2.0/snapshots/0a1b", {"adapter_config__json": ADAPTER}, "vlm2vec"),
        ("x", {"config__json": QWEN2 | {"_name_or_path": "VLM2Vec/VLM2Vec-V2.0"}}, "vlm2vec"),
        ("gme-Qwen2-VL-7B-Instruct", {"config__json": QWEN2}, "gme"),
        ("x", {"config__json": QWEN2, "gme_inference__py": ""}, "gme"),
        ("x", {"config__json": QWEN3, "modules__json": []}, "qwen3_vl_embedding"),
        ("Qwen3-VL-Embedding-8B", {"config__json": QWEN3}, "qwen3_vl_embedding"),
        ("gme-Qwen2-VL", {"config__json": QWEN2, "tte__json": {"recipe": "rge"}}, "rge"),  # tte.json comes first
    ],
)
def test_found(tmp_path: Path, name: str, files: dict[str, Any], expected: str) -> None:
    assert choose_recipe(folder_with(tmp_path / name, **files), None) == RECIPES[expected].make()


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("Qwen2-VL-2B-Instruct", {"config__json": QWEN2}, "does not say how it embeds.*Name a recipe: tte_u, "),
        ("x", {"config__json": QWEN2, "modules__json": []}, "does not say"),
        ("x", {"config__json": QWEN3, "tokenizer__json": added("<emb>")}, "does not say"),  # Embed-RL
        ("x", {"config__json": QWEN2, "tokenizer__json": added("<gen_emb>", "<disc_emb>", "<ct>")}, "does not say"),
        ("x", {"config__json": QWEN2, "tokenizer__json": added("<gen_emb>")}, "does not say"),
        ("Qwen3-VL-Reranker-2B", {"config__json": QWEN3, "modules__json": []}, "does not say"),
        ("x", {"adapter_config__json": ADAPTER}, "does not say"),
        ("x", {"config__json": "{", "tokenizer__json": "[1]"}, "does not say"),
        ("x", {"config__json": QWEN2, "tokenizer__json": {"added_tokens": ["<emb>", None]}}, "does not say"),
        ("vlm2vec-gme-qwen2", {"config__json": QWEN2}, "looks like vlm2vec and gme. Name a recipe: vlm2vec, gme"),
        (
            "gme-qwen2",
            {"config__json": QWEN2, "tokenizer__json": added("<gen_emb>", "<disc_emb>")},
            "looks like ume_r1 and gme",
        ),
    ],
)
def test_not_found(tmp_path: Path, name: str, files: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        choose_recipe(folder_with(tmp_path / name, **files), None)


def test_a_name_goes_before_everything(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "gme-Qwen2-VL", config__json=QWEN2)
    for name in NAMES:
        if name != "tte_u":
            assert choose_recipe(folder, name) == RECIPES[name].make()
    with pytest.raises(RecipeError, match=r"needs a tte.json with a head"):
        choose_recipe(folder, "tte_u")
    with pytest.raises(RecipeError, match="unknown recipe 'ume'"):
        choose_recipe(folder, "ume")


def test_marks_are_of_recipes_and_all_are_described() -> None:
    assert set(MARKS) == set(FOUND) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_survives_json(name: str) -> None:
    recipe = RECIPES[name].make()
    assert recipe.name == name
    entry = json.loads(json.dumps(recipe.to_json()))
    assert entry.pop("name") == name
    assert recipe_from_json({"recipe": name, **entry}, MAKERS) == recipe
    assert recipe_from_json({"recipe": "mine", **entry}, MAKERS) == replace(recipe, name="mine")


def test_tte_json_replaces_fields_of_a_known_recipe() -> None:
    recipe = recipe_from_json({"recipe": "rge", "max_trace_tokens": 16, "media": {"pixels": [784, 9408]}}, MAKERS)
    assert recipe == replace(RECIPES["rge"].make(), max_trace_tokens=16, media=MediaRules(pixels=(784, 9408)))


ROLES = {role: {"prompt": "{media}{text}"} for role in ("query", "document")}
OWN = {"recipe": "mine", "readout": "last", "roles": ROLES}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"recipe": 3}, "must be a name"),
        (OWN | {"recipe": ""}, "needs a name"),
        ({}, "must be a name"),
        ({"recipe": "mine"}, 'unknown recipe \'mine\'.*needs "roles" and "readout"'),
        (OWN | {"stops": ["x"]}, "unknown field 'stops'. Known: recipe, roles, readout"),
        (OWN | {"readout": "first"}, "unknown readout 'first'. Known: last, mean, head, marker"),
        (OWN | {"roles": {"query": ROLES["query"]}}, "no prompt for document"),
        (OWN | {"roles": ROLES | {"reader": ROLES["query"]}}, "unknown role 'reader'"),
        (OWN | {"roles": ROLES | {"query": "{media}{text}"}}, '"roles" is not as it must be'),
        (OWN | {"roles": ROLES | {"query": {"prompt": "{text}"}}}, "must contain {media} exactly once"),
        (OWN | {"roles": ROLES | {"query": {"prompt": "{media}{text}{text}"}}}, "must contain {text} exactly once"),
        (OWN | {"roles": ROLES | {"query": {"prompt": "{media}{text}{image}"}}}, "unknown field 'image'"),
        (OWN | {"roles": ROLES | {"query": {"prompt": "{media}{text}", "think": True}}}, "no stop token"),
        (OWN | {"stop": "<|im_end|>"}, "must be a list of tokens"),
        (OWN | {"stop": [2]}, "must be a list of tokens"),
        (OWN | {"stop": [f"<|{i}|>" for i in range(9)]}, "9 stop tokens, but at most 8 may end a trace"),
        (OWN | {"max_trace_tokens": "9"}, "max_trace_tokens must be a number from 0"),
        (OWN | {"marker": "<emb>"}, "do not fit"),
        (OWN | {"readout": "marker"}, "do not fit"),
        (OWN | {"readout": "marker", "marker": "<emb>"}, "must contain its marker '<emb>'"),
        (OWN | {"readout": "generated_marker", "marker": "<emb>", "close": ["<x>"]}, "must close with its marker"),
        (OWN | {"instruction": "Find it."}, r"no prompt has \{instruction\}"),
        (OWN | {"tidy_text": "upper"}, "unknown tidy_text 'upper'. Known: as_given"),
        (OWN | {"trace_from": "teacher"}, "unknown trace_from"),
        (OWN | {"media": {"positions": "line"}}, "unknown positions of media"),
        (OWN | {"media": {"pixels": [9, 3]}}, r"must be \[least, most\]"),
        (OWN | {"media": {"blank": 0}}, "at least 1 pixel"),
        (OWN | {"media": {"colour": 1}}, '"media" is not as it must be'),
        (OWN | {"readout": "head"}, "needs a tte.json with a head"),
    ],
)
def test_bad_tte_json(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        choose_recipe(folder_with(tmp_path / "x", config__json=QWEN2, tte__json=entry), None)


def test_recipes_that_do_not_fit_the_checkpoint(checkpoints: Callable[..., Path]) -> None:
    """A marker that the tokenizer lacks is found before weights are read; so is a head that is not there."""
    for name, token in (("ume_r1", "<gen_emb>"), ("ume_r1_disc", "<disc_emb>"), ("rge", "<emb>")):
        with pytest.raises(RecipeError, match=f"recipe '{name}' needs '{token}' as one token.*does not fit"):
            Embedder.from_pretrained(checkpoints("plain", "qwen2_vl"), recipe=name)
    mine = Recipe("mine", {role: RolePrompt("{media}{text}") for role in ("query", "document")}, "head")
    with pytest.raises(RecipeError, match="'mine' needs a tte"):
        Embedder.from_pretrained(checkpoints("plain", "qwen2_vl"), recipe=mine)


def test_a_blank_picture_needs_a_tower(tmp_path: Path) -> None:
    folder = tmp_path / "text only"
    folder.mkdir()
    byte_tokenizer(("<gen_emb>", "<disc_emb>")).save_pretrained(folder)
    Qwen2Config(num_hidden_layers=1).save_pretrained(folder)
    for name in ("ume_r1", "ume_r1_disc"):
        with pytest.raises(RecipeError, match="reads text only"):
            Embedder.from_pretrained(folder, recipe=name)


def test_an_embedder_of_traces_needs_one(checkpoints: Callable[..., Path]) -> None:
    with Embedder.from_pretrained(checkpoints("plain", "qwen2_vl"), recipe="tte_s") as embedder:
        with pytest.raises(TraceError, match="another model writes"):
            embedder.encode("a text")
        assert embedder.encode("a text", think=False).shape == (64,)
    with (
        Embedder.from_pretrained(checkpoints("plain", "qwen2_vl"), recipe="gme") as embedder,
        pytest.raises(OptionError, match="cannot think"),
    ):
        embedder.encode("a text", think=True)


def test_the_bundled_checkpoint_under_another_name(tmp_path: Path) -> None:
    """Its tte.json has a name of its own: it is found by that name, and the head goes with it."""
    folder = tmp_path / "renamed"
    shutil.copytree(find_folder("tte-tiny"), folder)
    entry = json.loads((folder / "tte.json").read_text())
    (folder / "tte.json").write_text(json.dumps(entry | {"recipe": "mine", "readout": "head"}))
    with Embedder.from_pretrained(folder, recipe="mine") as mine, Embedder.from_pretrained("tte-tiny") as tiny:
        assert mine.recipe == replace(tiny.recipe, name="mine")
        assert (mine.embed("b3", role="query").vector == tiny.embed("b3", role="query").vector).all()
        assert mine.fingerprint != tiny.fingerprint
