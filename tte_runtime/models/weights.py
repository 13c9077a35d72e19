"""Tensors of a Hugging Face folder, sharded or not, read one by one and never through a transformers model.

Knows files and names; knows nothing of what the tensors mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from tte_runtime.errors import CheckpointError


class TensorFiles:
    """Lazy, named access to the safetensors of a folder.

    Args:
        folder: a checkpoint folder with `model.safetensors`, or with `model.safetensors.index.json` and shards.
        file: another single file in the folder, e.g. "head.safetensors".

    Raises:
        CheckpointError: no weights are there, or a shard is missing or broken.
    """

    def __init__(self, folder: Path, file: str | None = None) -> None:
        self._folder = folder
        self._handles = {name: self._open(folder / name) for name in _file_names(folder, file)}
        self._where = {key: handle for handle in self._handles.values() for key in handle.keys()}  # noqa: SIM118 (no dict)

    @staticmethod
    def _open(path: Path) -> safe_open:
        if not path.is_file():
            raise CheckpointError(f"{path} is missing. Copy the checkpoint again, all shards together.")
        try:
            return safe_open(path, framework="pt")
        except SafetensorError as error:
            raise CheckpointError(f"{path} is no readable safetensors file ({error}). Copy it again.") from error

    def names(self) -> Iterable[str]:
        """Every tensor's name."""
        return self._where.keys()

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def get(self, name: str, shape: tuple[int, ...] | None = None) -> torch.Tensor:
        """The tensor `name` as stored.

        Raises:
            CheckpointError: it is absent, or its shape is not `shape`.
        """
        if name not in self._where:
            raise CheckpointError(f"{self._folder} has no tensor {name!r}; it has {len(self._where)} others.")
        tensor = self._where[name].get_tensor(name)
        if shape is not None and tuple(tensor.shape) != shape:
            raise CheckpointError(f"tensor {name!r} has shape {tuple(tensor.shape)}, the config says {shape}.")
        return tensor

    def prefix(self, candidates: Iterable[str], probe: str) -> str:
        """The first of `candidates` under which a tensor `probe` stands.

        Raises:
            CheckpointError: none of them does.
        """
        tried = list(candidates)
        for prefix in tried:
            if prefix + probe in self:
                return prefix
        raise CheckpointError(f"{self._folder} has no tensor {probe!r} under any of the prefixes {tried}.")

    def state_dict(self, prefix: str) -> dict[str, torch.Tensor]:
        """All tensors under `prefix`, with the prefix taken off."""
        return {name[len(prefix) :]: self.get(name) for name in self._where if name.startswith(prefix)}


def _file_names(folder: Path, file: str | None) -> list[str]:
    if file is not None:
        return [file]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            return sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{index} is no weight index ({error!r}). Copy it again.") from error
    if (folder / "model.safetensors").is_file():
        return ["model.safetensors"]
    raise CheckpointError(
        f"{folder} has neither model.safetensors nor model.safetensors.index.json. "
        "Give the folder of a Hugging Face checkpoint saved with safe serialization."
    )
