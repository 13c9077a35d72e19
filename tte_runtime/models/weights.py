"""Tensors of a checkpoint by name; those of a Hugging Face folder, sharded or not, are read one by one from its files.

Knows files and names; knows nothing of what the tensors mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from tte_runtime.errors import CheckpointError


class Tensors:
    """Lazy, named access to the tensors of a checkpoint.

    Args:
        origin: where they come from, for messages.
        readers: by name, what reads the tensor.
    """

    def __init__(self, origin: Path, readers: Mapping[str, Callable[[], torch.Tensor]]) -> None:
        self.origin = origin
        self._readers = readers

    def names(self) -> Iterable[str]:
        """Every tensor's name."""
        return self._readers.keys()

    def __contains__(self, name: str) -> bool:
        return name in self._readers

    def get(self, name: str, shape: tuple[int, ...] | None = None) -> torch.Tensor:
        """The tensor `name` as stored.

        Raises:
            CheckpointError: it is absent, or its shape is not `shape`.
        """
        if name not in self._readers:
            raise CheckpointError(f"{self.origin} has no tensor {name!r}; it has {len(self._readers)} others.")
        tensor = self._readers[name]()
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
        raise CheckpointError(f"{self.origin} has no tensor {probe!r} under any of the prefixes {tried}.")

    def state_dict(self, prefix: str) -> dict[str, torch.Tensor]:
        """All tensors under `prefix`, with the prefix taken off."""
        return {name[len(prefix) :]: self.get(name) for name in self._readers if name.startswith(prefix)}


class TensorFiles(Tensors):
    """The safetensors of a folder.

    Args:
        folder: a checkpoint folder with `model.safetensors`, or with `model.safetensors.index.json` and shards.
        file: another single file in the folder, e.g. "head.safetensors".

    Raises:
        CheckpointError: no weights are there, or a shard is missing or broken.
    """

    def __init__(self, folder: Path, file: str | None = None) -> None:
        handles = [self._open(folder / name) for name in _file_names(folder, file)]
        super().__init__(folder, {key: partial(handle.get_tensor, key) for handle in handles for key in handle.keys()})  # noqa: SIM118 (no dict)

    @staticmethod
    def _open(path: Path) -> safe_open:
        if not path.is_file():
            raise CheckpointError(f"{path} is missing. Copy the checkpoint again, all shards together.")
        try:
            return safe_open(path, framework="pt")
        except SafetensorError as error:
            raise CheckpointError(f"{path} is no readable safetensors file ({error}). Copy it again.") from error


SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def has_weights(folder: Path) -> bool:
    """Whether a folder has safetensors of its own, whole or in shards."""
    return (folder / SINGLE).is_file() or (folder / INDEX).is_file()


def _file_names(folder: Path, file: str | None) -> list[str]:
    if file is not None:
        return [file]
    index = folder / INDEX
    if index.is_file():
        try:
            return sorted({str(name) for name in json.loads(index.read_text())["weight_map"].values()})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{index} is no weight index ({error!r}): it must hold an object whose weight_map says each tensor's "
                "file. Copy it again."
            ) from error
    if (folder / SINGLE).is_file():
        return [SINGLE]
    raise CheckpointError(
        f"{folder} has neither model.safetensors nor model.safetensors.index.json. "
        "Give the folder of a Hugging Face checkpoint saved with safe serialization."
    )
