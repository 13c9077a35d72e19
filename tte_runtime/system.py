"""A system put together: embedder, reasoner and trace store, behind one pipeline. Knows which part needs which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tte_runtime.config import EngineConfig
from tte_runtime.engine.loop import EngineLoop
from tte_runtime.errors import OptionError, RecipeError
from tte_runtime.loading import default_recipe, load_model
from tte_runtime.pipeline import Pipeline
from tte_runtime.reasoners.base import Reasoner
from tte_runtime.recipes.base import Recipe
from tte_runtime.traces.store import TraceStore


def load_system(
    folder: Path,
    recipe: str | Recipe | None,
    reasoner: Reasoner | None,
    traces: str | Path | TraceStore | None,
    options: dict[str, Any],
) -> Pipeline:
    """Load what a system is made of; arguments and errors as for `Embedder.from_pretrained`."""
    config = EngineConfig.from_options(**options)
    if reasoner is not None and not isinstance(reasoner, Reasoner):
        raise OptionError(f"reasoner must be LocalReasoner(...) or RemoteReasoner(...), got {reasoner!r}.")
    if reasoner is not None and recipe is None:
        recipe = default_recipe(folder, "tte_s")
    store = traces if isinstance(traces, TraceStore) or traces is None else TraceStore(traces)
    try:
        model = load_model(folder, config, recipe)
        if reasoner is not None and model.renderer.recipe.readout == "generated_marker":
            raise RecipeError(
                f"recipe {model.renderer.recipe.name!r} reads its vector within a trace of its own, which another "
                "model's trace does not have. Name another recipe, such as tte_s, or drop the reasoner."
            )
        loop = EngineLoop([model.engine])
        writer = reasoner.load(model, options, loop) if reasoner is not None else None
    except BaseException:
        if store is not None and store is not traces:
            store.close()
        raise
    return Pipeline(model, loop, writer, store, owns_store=store is not traces)
