"""A reasoner that runs here: another checkpoint in an engine of its own, on the same loop as the embedder's.

Knows two loaded models and what they have in common; knows nothing of how its traces are embedded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tte_runtime.config import EngineConfig
from tte_runtime.engine.loop import EngineLoop
from tte_runtime.engine.request import EngineRequest, EngineResult, Listener
from tte_runtime.errors import RecipeError
from tte_runtime.inputs.trace_tokens import TraceTokens
from tte_runtime.loading import Model, default_recipe, load_model
from tte_runtime.models.checkpoint import find_folder
from tte_runtime.reasoners.base import Ask, Draft, Reasoner, WriteListener, Writer, Written
from tte_runtime.reasoners.keys import local_key
from tte_runtime.recipes.base import Recipe
from tte_runtime.recipes.registry import choose_recipe
from tte_runtime.traces.trace import Trace, TraceKey
from tte_runtime.types import Role, Think


class LocalReasoner(Reasoner):
    """A checkpoint of this machine that writes the traces (TTE_s, and TTE_t with a teacher that fits).

    Args:
        path: a bundled checkpoint, a folder, or a model id of the hub.
        recipe: its prompts, stop tokens and limit: a recipe, a name, or `None` for what the checkpoint's `tte.json`
            says, else "reasoner". How it would read a vector does not matter.
        think: limits and sampling where a request gives none; greedy, up to the recipe's limit, by default.
        **options: fields of `EngineConfig` that differ from the embedder's, such as kv_cache_tokens.
    """

    def __init__(
        self, path: str | Path, *, recipe: str | Recipe | None = None, think: Think | None = None, **options: Any
    ) -> None:
        self.path = path
        self.recipe = recipe
        self.think = think or Think()
        self.options = options

    def load(self, embedder: Model | None, options: dict[str, Any], loop: EngineLoop) -> Writer:
        """Load the checkpoint; errors as for `Embedder.from_pretrained`."""
        folder = find_folder(self.path)
        recipe = _writing(choose_recipe(folder, self.recipe or default_recipe(folder, "reasoner")))
        config = EngineConfig.from_options(**{**options, **self.options})
        model = load_model(folder, config, recipe, beside=embedder)
        loop.add(model.engine)
        return LocalWriter(model, embedder, loop, self.think)


def _writing(recipe: Recipe) -> Recipe:
    """A recipe of which only the traces matter: no head is loaded for it, and nothing is fed after a trace."""
    if not recipe.stop or recipe.trace_from != "itself":
        raise RecipeError(f"recipe {recipe.name!r} writes no traces. Name one that does, such as reasoner.")
    return replace(recipe, readout="last", marker=None, close=(), suffix=())


class LocalWriter(Writer):
    """A checkpoint that writes traces.

    Args:
        model: the reasoner.
        embedder: the model that reads its traces; `None` where nobody does here.
        loop: drives the reasoner's engine.
        think: limits and sampling where a request gives none.
    """

    def __init__(self, model: Model, embedder: Model | None, loop: EngineLoop, think: Think) -> None:
        self.model = model
        self.think = think
        self.identity = model.identity
        self._loop = loop
        self._tokens = TraceTokens(model.renderer)
        self.shares_ids = embedder is None or self._tokens.same_as(TraceTokens(embedder.renderer))

    def thinks(self, role: Role) -> bool:
        """As its recipe does."""
        return self.model.renderer.recipe.roles[role].think

    def limit(self, think: Think) -> int:
        """The request's, or its recipe's."""
        return self.model.renderer.recipe.max_trace_tokens if think.max_tokens is None else think.max_tokens

    def prepare(self, ask: Ask) -> Draft:
        """Render the reasoner's own prompt."""
        request = self.model.renderer.render(
            ask.item, ask.role, ask.think, priority=ask.priority, normalize=True, arrival=ask.arrival
        )
        # The deadline counts from the caller's asking, the reasoner's own timings from here.
        began = time.perf_counter() - request.preprocess_ms / 1000
        return LocalDraft(self, replace(request, arrival=began), local_key(self.model, request, ask.role, ask.think))

    def submit(self, request: EngineRequest, listener: WriteListener) -> Callable[[], None]:
        """Hand a prompt over to the engine; returns a function that gives it up."""

        def on_result(result: EngineResult) -> None:
            text = self._tokens.text(result.trace_ids, plain=True)
            trace = Trace(text, result.trace_ids, result.finish_reason, result.forced_by)
            listener.on_written(Written(trace, result.counts, result.timings))

        engine_listener = Listener(on_result, listener.on_error, listener.on_piece)
        ticket = self._loop.submit(request, engine_listener, self.model.engine)
        return lambda: self._loop.cancel(ticket)

    def body(self, ids: Sequence[int]) -> tuple[int, ...]:
        """By its own recipe's stop tokens."""
        return self._tokens.body(ids)

    def text(self, ids: Sequence[int]) -> str:
        """In its own tokenizer."""
        return self._tokens.text(ids)

    def clear_caches(self) -> None:
        """Of prefixes and picture features."""
        self.model.clear_caches()

    def close(self) -> None:
        """Nothing to do: its engine stops with the loop."""


@dataclass(frozen=True, eq=False)
class LocalDraft(Draft):
    """A prompt, rendered for the reasoner's engine."""

    writer: LocalWriter
    request: EngineRequest
    key: TraceKey

    def write(self, listener: WriteListener) -> Callable[[], None]:
        """Hand it over to the engine."""
        return self.writer.submit(self.request, listener)
