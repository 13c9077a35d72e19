"""tte-runtime: latency-first inference for reasoning-driven multimodal embedding models.

    from tte_runtime import Embedder
    embedder = Embedder.from_pretrained("tte-tiny")
    vector = embedder.encode_query({"image": "scene.png", "text": "what is left of the car?"})

Importing initialises no device, reads no file of a model, and leaves torch alone until a name is used that needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tte_runtime import errors

if TYPE_CHECKING:
    from tte_runtime.config import EngineConfig
    from tte_runtime.embedder import Embedder
    from tte_runtime.reasoners.local import LocalReasoner
    from tte_runtime.reasoners.remote import RemoteReasoner
    from tte_runtime.recipes.base import MediaRules, Recipe, RolePrompt
    from tte_runtime.traces.store import TraceStore
    from tte_runtime.types import Counts, Result, Snapshot, Think, Timings, TraceToken

__version__ = "0.1.0"

__all__ = [
    "Counts",
    "Embedder",
    "EngineConfig",
    "LocalReasoner",
    "MediaRules",
    "Recipe",
    "RemoteReasoner",
    "Result",
    "RolePrompt",
    "Snapshot",
    "Think",
    "Timings",
    "TraceStore",
    "TraceToken",
    "__version__",
    "errors",
]

_HOMES = {
    "Counts": "types",
    "Embedder": "embedder",
    "EngineConfig": "config",
    "LocalReasoner": "reasoners.local",
    "MediaRules": "recipes.base",
    "Recipe": "recipes.base",
    "RemoteReasoner": "reasoners.remote",
    "Result": "types",
    "RolePrompt": "recipes.base",
    "Snapshot": "types",
    "Think": "types",
    "Timings": "types",
    "TraceStore": "traces.store",
    "TraceToken": "types",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}. It has: {', '.join(__all__)}.")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
