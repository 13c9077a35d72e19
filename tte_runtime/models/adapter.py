"""LoRA adapters (arXiv 2106.09685) in peft's layout, merged into the weights as they are read.

W + alpha / r * B A, in fp32, whatever the stored dtypes, and the rows of new tokens in the place of the base's; peft
itself is not needed. A module is found in the base by what follows the prefixes that differ between releases of
transformers. What else an adapter can hold is refused by name. Knows tensors and names; knows nothing of decoders and
towers.
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
HALVES, ROWS = {"lora_A.weight", "lora_B.weight"}, "token_adapter.trainable_tokens_delta"
OTHER_BASE = f"Set base_model_name_or_path in its {ADAPTER_CONFIG} to its own base."
MERGE = "Merge the adapter with peft (merge_and_unload) and load the merged checkpoint."

# Options of peft's LoraConfig under which W + s B A would be wrong; anything they add as tensors is refused as well.
CHANGES_THE_MERGE = (
    "use_dora",
    "fan_in_fan_out",
    "lora_bias",
    "modules_to_save",
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
        for module, found in sorted(_modules(files).items()):
            name = targets.get(_plain(module) + ".weight")
            if name is None:
                raise CheckpointError(
                    f"the adapter in {folder} changes {module!r}, which {base.origin} does not have: it was trained on "
                    f"another base. {OTHER_BASE}"
                )
            if found == {ROWS}:
                rows = files.get(f"{PEFT_PREFIX}{module}.{ROWS}")
                readers[name] = partial(_replaced, base, name, rows, _indices(config, module))
                continue
            a, b = (files.get(f"{PEFT_PREFIX}{module}.{half}") for half in sorted(HALVES))
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


def _replaced(base: Tensors, name: str, rows: torch.Tensor, indices: list[int]) -> torch.Tensor:
    """The base's tensor, some rows exchanged; raises CheckpointError where there are not as many, or not so wide."""
    weight = base.get(name)
    if rows.shape != (len(indices), weight.shape[-1]) or max(indices, default=0) >= len(weight):
        raise CheckpointError(
            f"the adapter has {list(rows.shape)} values for rows {indices} of {name!r}, and {base.origin} has "
            f"{list(weight.shape)}: it was trained on another base. {OTHER_BASE}"
        )
    dtype = torch.promote_types(weight.dtype, rows.dtype)
    return weight.to(dtype).index_copy(0, torch.tensor(indices), rows.to(dtype))


def _indices(config: dict[str, Any], module: str) -> list[int]:
    """Which rows of `module` are exchanged; a list without a name is of the input embedding, as in peft."""
    indices = config.get("trainable_token_indices") or {}
    if isinstance(indices, list):
        return indices
    return next((rows for suffix, rows in indices.items() if f".{module}".endswith(f".{suffix}")), [])


def _plain(name: str) -> str:
    """A name without the prefixes that releases of transformers put before towers and decoders, or do not."""
    return re.sub(r"^(model\.)?(language_model\.)?(model\.)?", "", name)


def _modules(files: TensorFiles) -> dict[str, set[str]]:
    """The modules that an adapter changes, and by what: a pair of matrices, or rows; anything else is refused."""
    modules: dict[str, set[str]] = {}
    for name in files.names():
        match = re.fullmatch(rf"{re.escape(PEFT_PREFIX)}(.+)\.(lora_[AB]\.weight|{re.escape(ROWS)})", name)
        if match is None:
            raise CheckpointError(
                f"{files.origin} holds {name!r}, which is no matrix of a plain LoRA on linear layers. {MERGE}"
            )
        modules.setdefault(match[1], set()).add(match[2])
    for module, found in modules.items():
        if found not in (HALVES, {ROWS}):
            raise CheckpointError(
                f"{files.origin} has only {' and '.join(sorted(found))} of {module!r}. Copy the adapter again."
            )
    return modules


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
