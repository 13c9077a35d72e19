"""The key of a trace that one of our engines would write. Knows loaded models and engine requests."""

from __future__ import annotations

from tte_runtime.engine.request import EngineRequest
from tte_runtime.loading import Model
from tte_runtime.traces.trace import TraceKey, hash_of, sampling_hash
from tte_runtime.types import Role, Think

# What a recipe says about the vector, or about requests without a trace; the roles are replaced by the one that asks.
NOT_THE_TRACE = ("name", "roles", "readout", "marker", "close", "suffix", "at_once", "max_trace_tokens", "trace_from")


def local_key(model: Model, request: EngineRequest, role: Role, think: Think) -> TraceKey:
    """What decides the trace that `model` would write for a rendered request."""
    recipe = model.renderer.recipe
    rest = {name: value for name, value in recipe.to_json().items() if name not in NOT_THE_TRACE}
    media = [(span.start, span.length, span.key.hex()) for span in request.media]
    reader = model.renderer.media
    return TraceKey(
        content=hash_of(request.prompt_ids, media),
        prompt=hash_of(recipe.roles[role].prompt, rest),
        processor=hash_of(model.renderer.pixel_backend, reader.pictures.settings if reader else None),
        reasoner=hash_of(model.thinking_digest, model.config.precision),
        sampling=sampling_hash(think, request.max_trace_tokens),
    )
