"""What a checkpoint in training becomes on disk: weights rounded to what is shipped, and a `tte.json` that reads back.

The preset and the stages share it. Knows parameters and files; knows nothing of how the weights came to be.
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tte_runtime.recipes.base import Recipe
from tte_runtime.recipes.registry import RECIPES
from tte_runtime.recipes.tte_json import as_tte_json
from tte_runtime.training.finite import check_finite


@torch.no_grad()
def round_to(model: nn.Module, dtype: torch.dtype, *, keep: bool = True) -> None:
    """Round parameters in place: what is trained on top sees what will be shipped. `keep` keeps the dtype of memory.

    Parameters only: `Module.to` would round the rotary frequencies too, which no checkpoint stores.
    """
    for parameter in model.parameters():
        rounded = parameter.to(dtype)
        parameter.data = rounded.to(parameter.dtype) if keep else rounded


def write_model(folder: Path, model: Any, dtype: torch.dtype) -> None:
    """Write config and weights of a model of transformers, weights in `dtype`. `model` is not changed.

    Raises:
        TrainingError: a weight is NaN or infinite, or too large for `dtype`.
    """
    shipped = copy.deepcopy(model)
    round_to(shipped, dtype, keep=False)
    check_finite(dict(shipped.named_parameters()), f"{folder} in {str(dtype).removeprefix('torch.')}")
    shipped.save_pretrained(folder)


def write_recipe(folder: Path, recipe: Recipe, head: dict[str, Any] | None = None) -> None:
    """Write `tte.json`, which reads back as exactly this recipe."""
    entry = as_tte_json(recipe)
    if recipe.name in RECIPES:  # what the registry's recipe of that name has, and this one leaves at its default
        ours = asdict(recipe)
        theirs = RECIPES[recipe.name].make().to_json()
        entry |= {field: ours[field] for field in theirs if field not in entry and field != "name"}
    if head is not None:
        entry["head"] = head
    (folder / "tte.json").write_text(json.dumps(entry, indent=2) + "\n", encoding="utf-8")
