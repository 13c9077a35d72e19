"""What differs between releases of transformers and its kin, and what must be settled before its models are imported.

Packages of ours that import transformers' models come here first.

A torchvision that is installed but cannot be imported is made to count as absent. The torchvision of the package
index links CUDA and fails beside a CPU build of torch; transformers looks only whether it is installed, and then
cannot import its own image processors and models either. Knows nothing of pictures.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from typing import Any

import torch


def hide_broken_torchvision() -> None:
    """Mark torchvision as not importable, for transformers too, if importing it fails. Warns once with the reason."""
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # RuntimeError for missing operators, OSError for missing libraries, ...
        logging.getLogger(__name__).warning(
            "torchvision is installed but cannot be imported (%s): PIL resizes pictures, about 5 times slower.",
            error,
        )
        for name in [name for name in sys.modules if name.startswith("torchvision.")]:
            del sys.modules[name]
        sys.modules["torchvision"] = None  # type: ignore[assignment]  # Python's own mark for "not importable"
        from transformers.utils import import_utils

        for check in (import_utils.is_torchvision_available, import_utils.is_torchvision_v2_available):
            check.cache_clear()


def http_client() -> Any:
    """The module of the HTTP client that huggingface_hub brings along: `httpx2` since its release 2, `httpx` before."""
    from huggingface_hub import utils

    return getattr(utils, "httpx", None) or importlib.import_module("httpx")


def tower_rotation(rotary: Any, hidden: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of patches, float32 [N, D] each, by the rotary module of transformers' Qwen2-VL tower.

    In transformers 5.10 the module has no config and gives the angles of half a head only.

    Args:
        rotary: the module. hidden: any states of the tower. positions: int64 [N, 2], row and column.
    """
    if hasattr(rotary, "config"):
        cos, sin = rotary(hidden, positions)
        return cos, sin
    angles = rotary(positions).repeat(1, 2)
    return angles.cos(), angles.sin()


hide_broken_torchvision()
