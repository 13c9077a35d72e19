"""GGUF files of text models, through transformers' own reader: config, tokenizer and unpacked weights.

Weights are unpacked from their blocks on loading; what runs afterwards is the decoder of every other checkpoint.
Knows files; knows nothing of what the tensors mean.
"""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from tte_runtime.errors import CheckpointError, MissingExtraError
from tte_runtime.models.weights import Tensors


def is_gguf(path: Path) -> bool:
    """Whether `path` is such a file."""
    return path.suffix.lower() == ".gguf" and path.is_file()


def pretrained(path: Path) -> dict[str, Any]:
    """Arguments that tell any `from_pretrained` of transformers to read `path`, a folder or a GGUF file."""
    if is_gguf(path):
        return {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    return {"pretrained_model_name_or_path": path}


def pretrained_model(path: Path) -> dict[str, Any]:
    """The same for models, which unpack a GGUF file's blocks."""
    options: dict[str, Any] = {}
    if is_gguf(path) and hasattr(transformers, "GgufConfig"):  # before it came, unpacking was the only way
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    return {**pretrained(path), **options}


def read_gguf_config(path: Path) -> Any:
    """The transformers config of a GGUF file.

    Raises:
        MissingExtraError: what reads it is not installed. CheckpointError: it is broken, or of an unknown architecture.
    """
    missing = [package for package in ("gguf", "accelerate") if find_spec(package) is None]
    if missing:
        raise MissingExtraError(f"a GGUF file needs {' and '.join(missing)}. Run: pip install 'tte-runtime[gguf]'.")
    try:
        return AutoConfig.from_pretrained(**pretrained(path))
    except Exception as error:  # the reader raises ValueError, KeyError, IndexError, ... on what it does not know
        raise CheckpointError(
            f"{path} cannot be read as GGUF: {error!r}. Copy it again, or use safetensors."
        ) from error


class GgufTensors(Tensors):
    """The weights of a GGUF file, unpacked, under the names of transformers.

    Args:
        path: the file.
        dtype: what they are unpacked to.

    Raises:
        CheckpointError: the file is broken.
    """

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        try:
            model = AutoModelForCausalLM.from_pretrained(**pretrained_model(path), dtype=dtype)
        except Exception as error:  # as above
            raise CheckpointError(f"{path} cannot be read as GGUF: {error!r}. Copy it again.") from error
        state = model.state_dict()
        super().__init__(path, {name: partial(state.__getitem__, name) for name in state})
