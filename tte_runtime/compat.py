"""What must be settled before transformers' models are imported; packages of ours that import them come here first.

A torchvision that is installed but cannot be imported is made to count as absent. The torchvision of the package
index links CUDA and fails beside a CPU build of torch; transformers looks only whether it is installed, and then
cannot import its own image processors and models either. Knows nothing of pictures.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys


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


hide_broken_torchvision()
