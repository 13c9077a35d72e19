"""The arms of the scenes table: small files of weights, put together with the bundled model into checkpoints to serve.

All arms have tte-tiny's shape, tower and tokenizer, and differ in the decoder's or the head's weights. A file holds a
matrix in 8 bits with one scale a row, compressed by zip: about 6.5 bits a weight, so that three seeds of eight arms
stay under 40 MB together with the bundled checkpoint, which is seed 0's reasoner and decoder_layers. Weights come back
rounded to bfloat16, as the bundled ones are. Knows no training and no question.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig

from tte_runtime.errors import CheckpointError, OptionError
from tte_runtime.heads.reference import make_reference_head
from tte_runtime.models.checkpoint import find_folder
from tte_runtime.training.checkpoint import HEADS as SIZES
from tte_runtime.training.checkpoint import recipe

BASE = "tte-tiny"
HEADS = tuple(SIZES)
ARMS = ("reasoner", "embedder", "direct", "looped", *HEADS)
BUNDLED = ("reasoner", "decoder_layers")  # of seed 0
DECODER = "model."  # what names of the decoder's weights begin with in a checkpoint
LOOPS = {"looped": 2}
STEPS_PER_SIGMA = 20  # a row's root mean square in quantisation steps: 1.4 % noise, and 6.3 sigma fit in 8 bits
SCALE = ":scale"
AGAIN = "Take it from the repository again."


def write_arm(file: Path, state: Mapping[str, Tensor]) -> None:
    """Write weights; matrices in 8 bits a weight with one scale a row, the rest in fp32."""
    arrays: dict[str, np.ndarray] = {}
    for name, tensor in state.items():
        values = tensor.detach().float().cpu().numpy()
        if values.ndim == 2:
            scale = np.sqrt((values**2).mean(axis=1, keepdims=True)).clip(1e-12) / STEPS_PER_SIGMA
            # Rows with an outlier take a wider step instead of cutting it off.
            scale = np.maximum(scale, np.abs(values).max(axis=1, keepdims=True) / 127)
            arrays[name] = np.rint(values / scale).astype(np.int8)
            arrays[name + SCALE] = scale.astype(np.float32)
        else:
            arrays[name] = values
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial.npz")
    np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]
    partial.rename(file)


def read_arm(file: Path) -> dict[str, Tensor]:
    """What `write_arm` wrote, in bfloat16.

    Raises:
        CheckpointError: there is no such file, or it is damaged.
    """
    if not file.is_file():
        raise CheckpointError(f"{file} is missing: this arm has not been trained, or the folder is not a clone's.")
    try:
        with np.load(file) as stored:
            arrays = {name: stored[name] for name in stored.files}
        state = {}
        for name, values in arrays.items():
            if not name.endswith(SCALE):
                scale = arrays.get(name + SCALE)
                whole = values.astype(np.float32) * scale if scale is not None else values
                state[name] = torch.from_numpy(whole).to(torch.bfloat16)
    except Exception as error:
        raise CheckpointError(f"{file} cannot be read ({error}). {AGAIN}") from error
    return state


def _read_whole(file: Path, wanted: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """An arm that has exactly the weights it should: what is missing would silently be the bundled model's.

    Raises:
        CheckpointError: as `read_arm`, or a name or a shape differs.
    """
    state = read_arm(file)
    found = {name: tensor.shape for name, tensor in state.items()}
    differs = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    if differs:
        name = differs[0]
        has, needs = ("nothing" if shape is None else str(list(shape)) for shape in (found.get(name), wanted.get(name)))
        raise CheckpointError(
            f"{file} is damaged: {len(differs)} of its tensors are not this arm's, the first is {name!r}: there is "
            f"{has}, and there must be {needs}. {AGAIN}"
        )
    return state


def seeds(folder: Path) -> list[int]:
    """The seeds that have arms in `folder`, others lie there as they like; raises OptionError when it has none."""
    names = [one.name for one in folder.glob("seed*") if one.is_dir()]
    found = sorted(int(name[4:]) for name in names if re.fullmatch(r"seed(0|[1-9][0-9]*)", name))
    if not found:
        raise OptionError(f"no arms in {folder}: it must hold seed0, seed1, ... Give a clone's benchmarks/arms.")
    return found


def assemble(folder: Path, seed: int, arm: str, out: Path) -> Path:
    """Write the checkpoint of one arm into `out` and return it.

    Args:
        folder: of all arms, with a folder a seed.
        arm: one of ARMS. A head comes with its reasoner.

    Raises:
        OptionError: an unknown arm.
        CheckpointError: its weights are not there, or are not those of such an arm.
    """
    if arm not in ARMS:
        raise OptionError(f"unknown arm {arm!r}: one of {', '.join(ARMS)}.")
    files = folder / f"seed{seed}"
    base = find_folder(BASE)
    out.mkdir(parents=True, exist_ok=True)
    weights = load_file(base / "model.safetensors")
    if arm in HEADS:
        bundled = seed == 0 and arm in BUNDLED
        head = load_file(base / "head.safetensors") if bundled else _read_whole(files / f"{arm}.npz", _head_shapes(arm))
        save_file(head, out / "head.safetensors", metadata={"format": "pt"})
    decoder = "reasoner" if arm in HEADS else arm
    if not (seed == 0 and decoder in BUNDLED):
        shapes = {name.removeprefix(DECODER): weights[name].shape for name in weights if name.startswith(DECODER)}
        found = _read_whole(files / f"{decoder}.npz", shapes)
        weights |= {DECODER + name: tensor for name, tensor in found.items()}
    config = json.loads((base / "config.json").read_text("utf-8"))
    _repeat_layers(weights, config["text_config"], LOOPS.get(arm, 1))
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    for name in ("generation_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(base / name, out / name)
    for name, content in (("config.json", config), ("tte.json", _recipe(arm))):
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return out


def _head_shapes(kind: str) -> dict[str, torch.Size]:
    """The weights that a head of the arms' sizes has."""
    with torch.device("meta"):  # shapes alone
        head = make_reference_head(kind, AutoConfig.from_pretrained(find_folder(BASE)), **SIZES[kind])
    return {name: tensor.shape for name, tensor in head.state_dict().items()}


def _repeat_layers(weights: dict[str, Tensor], text: dict[str, Any], loops: int) -> None:
    """Run the layers `loops` times, by writing them again behind the last one."""
    depth = text["num_hidden_layers"]
    for name in [name for name in weights if name.startswith("model.layers.")]:
        number, rest = name.removeprefix("model.layers.").split(".", 1)
        for loop in range(1, loops):
            weights[f"model.layers.{int(number) + loop * depth}.{rest}"] = weights[name].clone()
    text["num_hidden_layers"] = depth * loops
    text["layer_types"] = text["layer_types"] * loops


def _recipe(arm: str) -> dict[str, Any]:
    """The arm's tte.json: the bundled model's prompts, read in the arm's own way."""
    if arm in HEADS:
        return recipe(arm)
    bundled = recipe()
    prompts = {role: entry["prompt"] for role, entry in bundled["roles"].items()}
    if arm in ("direct", "looped"):
        (terminal,) = bundled["suffix"]
        roles = {role: {"prompt": prompt + terminal, "think": False} for role, prompt in prompts.items()}
        return {"recipe": "direct", "readout": "last", "roles": roles}
    own = {key: bundled[key] for key in ("roles", "stop", "max_trace_tokens")}
    if arm == "reasoner":
        return {"recipe": "reasoner", **own}
    return {"recipe": "tte_s", **own, "close": bundled["close"], "suffix": bundled["suffix"]}
