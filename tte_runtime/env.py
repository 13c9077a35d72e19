"""Every environment variable we read or report, in one table, and what `tte env` prints.

The only place where variables are named. Knows installed versions and devices; loads a model only when asked to.
"""

from __future__ import annotations

import importlib.util
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tte_runtime.embedder import Embedder


@dataclass(frozen=True)
class Variable:
    """An environment variable.

    Attributes:
        name: as it is set.
        meaning: what it does.
        secret: its value is never shown.
    """

    name: str
    meaning: str
    secret: bool = False

    def is_on(self) -> bool:
        """Set to 1."""
        return os.environ.get(self.name) == "1"

    @property
    def shown(self) -> str:
        """What a report says of it."""
        value = os.environ.get(self.name, "not set")
        return "set" if self.secret and self.name in os.environ else value


TRACEBACK = Variable("TTE_TRACEBACK", "1 shows the traceback of an error instead of one line")
INTERPRET = Variable("TRITON_INTERPRET", "1 runs Triton kernels in its interpreter, slowly, without a GPU")
OPENAI_KEY = Variable("OPENAI_API_KEY", "key of a remote reasoner's endpoint", secret=True)

VARIABLES = (
    TRACEBACK,
    INTERPRET,
    OPENAI_KEY,
    Variable("NUMBA_CACHE_DIR", "where compiled steps are kept, if not beside the package"),
    Variable("OMP_NUM_THREADS", "threads torch uses on a CPU"),
    Variable("CUDA_VISIBLE_DEVICES", "GPUs that torch sees"),
    Variable("HF_HOME", "where checkpoints from the hub are kept"),
    Variable("HF_HUB_OFFLINE", "1 keeps the hub client off the network"),
)

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow")
OPTIONAL = (
    "triton",
    "torchvision",
    "flash-attn",
    "xformers",
    "av",
    "pypdfium2",
    "openai",
    "accelerate",
    "sentence-transformers",
)


def report(model: str | None = None, **options: Any) -> list[tuple[str, str]]:
    """What runs here, as (name, value) rows.

    Args:
        model: a checkpoint to load, to say what every "auto" becomes for it.
        **options: of the engine, as for `Embedder.from_pretrained`.

    Raises:
        CheckpointError, OptionError: as `Embedder.from_pretrained`.
    """
    import torch

    from tte_runtime import __version__

    rows = [("tte-runtime", __version__), ("python", platform.python_version()), ("platform", platform.platform())]
    rows += [(name, metadata.version(name)) for name in PACKAGES]
    rows += [(name, _optional_version(name)) for name in OPTIONAL]
    rows += [("gpu", _gpus()), ("cpu threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores")]
    rows += [(variable.name, variable.shown) for variable in VARIABLES]
    if model is not None:
        rows += _engine_rows(model, options)
    return rows


def _optional_version(name: str) -> str:
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
    module = name.replace("-", "_")
    return found if importlib.util.find_spec(module) else f"{found}, but there is no module {module}"


def _gpus() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none that torch sees"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def _engine_rows(model: str, options: dict[str, Any]) -> list[tuple[str, str]]:
    from tte_runtime.embedder import Embedder

    with Embedder.from_pretrained(model, **options) as embedder:
        return [
            ("model", model),
            ("recipe", embedder.recipe.name),
            ("engine", embedder.config.describe()),
            ("memory", _memory(embedder)),
            ("embedding dim", str(embedder.embedding_dim)),
            ("fingerprint", embedder.fingerprint),
        ]


def _memory(embedder: Embedder) -> str:
    """What the engine keeps for itself, beside weights."""
    memory = embedder._pipeline.engine.memory
    return ", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in memory.items())
