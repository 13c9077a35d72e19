"""LoRA adapters (arXiv 2106.09685) in peft's layout, merged into the weights as they are read.

W + alpha / r * B A, in fp32, whatever the stored dtypes; peft itself is not needed. A module is found in the base by
what follows the prefixes that differ between releases of transformers. What an adapter can hold besides plain LoRA on
linear layers is refused by name. Knows tensors and names; knows nothing of decoders and towers.
"""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tte_runtime.errors import CheckpointError
from tte_runtime.models.checkpoint import ADAPTER_CONFIG, read_json
from tte_runtime.models.weights import TensorFiles, Tensors

WEIGHTS = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
OTHER_BASE = f"Set base_model_name_or_path in its {ADAPTER_CONFIG} to its own base."
MERGE = "Merge the adapter with peft (merge_and_unload) and load the merged checkpoint."

# Options of peft's LoraConfig under which W + s B A would be wrong; anything they add as tensors is refused as well.
CHANGES_THE_MERGE = (
    "use_dora",
    "fan_in_fan_out",
    "lora_bias",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
)
PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")  # others, as PiSSA, change the base's weights, too


class AdaptedTensors(Tensors):
    """A base's tensors with an adapter merged in.

    Args:
        base: the tensors of the base.
        folder: the adapter, `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        CheckpointError: it is no plain LoRA, or was trained on another base.
    """

    def __init__(self, base: Tensors, folder: Path) -> None:
        config = read_json(folder / ADAPTER_CONFIG)
        _refuse_options(folder, config)
        files = TensorFiles(folder, WEIGHTS)
        readers = {name: partial(base.get, name) for name in base.names()}
        targets = {_plain(name): name for name in base.names()}
        for module in _modules(files):
            name = targets.get(_plain(module) + ".weight")
            if name is None:
                raise CheckpointError(
                    f"the adapter in {folder} changes {module!r}, which {base.origin} does not have: it was trained on "
                    f"another base. {OTHER_BASE}"
                )
            a, b = (files.get(f"{PEFT_PREFIX}{module}.lora_{x}.weight") for x in "AB")
            readers[name] = partial(_merged, base, name, a, b, _scale(config, module, a.shape[0]))
        super().__init__(base.origin, readers)


def _merged(base: Tensors, name: str, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """W + s B A in fp32; raises CheckpointError where the shapes differ."""
    weight = base.get(name)
    if a.ndim != 2:
        raise CheckpointError(f"the adapter changes {name!r}, which is no linear layer. {MERGE}")
    if weight.shape != (b.shape[0], a.shape[1]):
        raise CheckpointError(
            f"the adapter's matrices for {name!r} make {[b.shape[0], a.shape[1]]}, and {base.origin} has "
            f"{list(weight.shape)}: it was trained on another base. {OTHER_BASE}"
        )
    return weight.float() + (b.float() @ a.float()) * scale


def _plain(name: str) -> str:
    """A name without the prefixes that releases of transformers put before towers and decoders, or do not."""
    return re.sub(r"^(model\.)?(language_model\.)?(model\.)?", "", name)


def _modules(files: TensorFiles) -> list[str]:
    """The modules that an adapter changes; raises CheckpointError where it holds anything but pairs of matrices."""
    modules: dict[str, set[str]] = {}
    for name in files.names():
        match = re.fullmatch(rf"{re.escape(PEFT_PREFIX)}(.+)\.lora_([AB])\.weight", name)
        if match is None:
            raise CheckpointError(
                f"{files.origin} holds {name!r}, which is no matrix of a plain LoRA on linear layers. {MERGE}"
            )
        modules.setdefault(match[1], set()).add(match[2])
    for module, found in modules.items():
        if found != {"A", "B"}:
            raise CheckpointError(f"{files.origin} has only lora_{found.pop()} of {module!r}. Copy the adapter again.")
    return sorted(modules)


def _refuse_options(folder: Path, config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"the adapter in {folder} is of kind {config.get('peft_type')!r}, not LORA. {MERGE}")
    options = [name for name in CHANGES_THE_MERGE if config.get(name)]
    if config.get("bias", "none") != "none":
        options.append("bias")
    if config.get("init_lora_weights") not in PLAIN_STARTS:
        options.append("init_lora_weights")
    if options:
        values = ", ".join(f"{name}={config[name]!r}" for name in options)
        raise CheckpointError(f"the adapter in {folder} uses {values}, which is not supported. {MERGE}")


def _scale(config: dict[str, Any], module: str, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r) for rsLoRA (arXiv 2312.03732); alpha may differ by module, matched as peft does."""
    alpha = config.get("lora_alpha", 8)
    for pattern, other in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = other
            break
    return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)
