"""tte-runtime: latency-first inference for reasoning-driven multimodal embedding models.

    from tte_runtime import Embedder
    embedder = Embedder.from_pretrained("tte-tiny")
    vector = embedder.encode_query({"image": "scene.png", "text": "what is left of the car?"})

Importing initialises no device and reads no file of a model.
"""

from tte_runtime import errors
from tte_runtime.config import EngineConfig
from tte_runtime.embedder import Embedder
from tte_runtime.recipes.base import Recipe, RolePrompt
from tte_runtime.types import Counts, Result, Think, Timings, TraceToken

__version__ = "0.1.0"

__all__ = [
    "Counts",
    "Embedder",
    "EngineConfig",
    "Recipe",
    "Result",
    "RolePrompt",
    "Think",
    "Timings",
    "TraceToken",
    "__version__",
    "errors",
]
