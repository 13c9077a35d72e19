"""Which recipe a checkpoint without a `tte.json` is for, from what its authors left in the folder.

Added tokens, the family in `config.json`, names (of the folder, of the hub, in the config, of an adapter's base), and
names of files. More than one answer is an error, and so is none: nothing is guessed. Reads no weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tte_runtime.errors import RecipeError


@dataclass(frozen=True)
class Facts:
    """What a folder shows.

    Attributes:
        family: `model_type` of the config, or the family that the name of an adapter's base has.
        names: lower-case names of the checkpoint, one string.
        tokens: added tokens of the tokenizer.
        files: names of the folder's files.
    """

    family: str
    names: str
    tokens: frozenset[str]
    files: frozenset[str]


def read_facts(folder: Path) -> Facts:
    """The facts of a folder; a file that is missing or unreadable shows nothing, and is refused where it is loaded."""
    config, adapter = _json(folder / "config.json"), _json(folder / "adapter_config.json")
    base = str(adapter.get("base_model_name_or_path", ""))
    # A snapshot of the hub lies in .../models--OWNER--NAME/snapshots/REVISION.
    names = [folder.name, *(part for part in folder.parts if part.startswith("models--"))]
    names += [str(config.get("_name_or_path", "")), str(adapter.get("_name_or_path", "")), base]
    family = str(config.get("model_type") or _family_in(base.lower()))
    files = frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else frozenset()  # or a GGUF file
    return Facts(family, " ".join(names).lower(), _added_tokens(folder), files)


MARKS: dict[str, Callable[[Facts], bool]] = {
    # PLUME (arXiv 2604.02073) has UME-R1's tokens and latent ones of its own; its loop is another recipe.
    "ume_r1": lambda facts: {"<gen_emb>", "<disc_emb>"} <= facts.tokens and not facts.tokens & {"<ct>", "<slt>"},
    # Embed-RL (arXiv 2602.13823) has an <emb> too, on Qwen3-VL, and reads it elsewhere.
    "rge": lambda facts: "<emb>" in facts.tokens and facts.family == "qwen2_5_vl",
    "vlm2vec": lambda facts: "vlm2vec" in facts.names and facts.family == "qwen2_vl",
    "gme": lambda facts: facts.family == "qwen2_vl" and ("gme-qwen2" in facts.names or _has_gme_file(facts)),
    "qwen3_vl_embedding": lambda facts: (
        facts.family == "qwen3_vl"
        and ("qwen3-vl-embedding" in facts.names or ("modules.json" in facts.files and "rerank" not in facts.names))
    ),
}
FOUND = {
    "ume_r1": "added tokens <gen_emb>, <disc_emb>",
    "rge": "added token <emb> on Qwen2.5-VL",
    "vlm2vec": "a name with vlm2vec, on Qwen2-VL",
    "gme": "a name with gme-qwen2, or gme_*.py",
    "qwen3_vl_embedding": "its name, or modules.json, on Qwen3-VL",
}


def detect(folder: Path, names: Sequence[str]) -> str:
    """The name of the one recipe that the folder shows.

    Args:
        folder: the checkpoint.
        names: of all recipes, for the error.

    Raises:
        RecipeError: it shows none, or more than one.
    """
    facts = read_facts(folder)
    found = [name for name, shows in MARKS.items() if shows(facts)]
    if len(found) == 1:
        return found[0]
    said = f"looks like {' and '.join(found)}" if found else "does not say how it embeds (it has no tte.json)"
    raise RecipeError(f"{folder} {said}. Name a recipe: {', '.join(found or names)}.")


def _has_gme_file(facts: Facts) -> bool:
    return any("gme" in name and name.endswith(".py") for name in facts.files)


def _family_in(base: str) -> str:
    for written, family in (("qwen2.5-vl", "qwen2_5_vl"), ("qwen2-vl", "qwen2_vl"), ("qwen3-vl", "qwen3_vl")):
        if written in base:
            return family
    return ""


def _added_tokens(folder: Path) -> frozenset[str]:
    entries = list(_json(folder / "tokenizer.json").get("added_tokens") or ())
    entries += dict(_json(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}).values()
    written = {str(entry.get("content")) for entry in entries if isinstance(entry, dict)}
    return frozenset(written | set(_json(folder / "added_tokens.json")))


def _json(path: Path) -> dict[str, Any]:
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entry if isinstance(entry, dict) else {}
