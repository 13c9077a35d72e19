"""Requests whose traces are steered: of a given length whatever the model would do, or given token for token.

A renderer around a renderer, so that the engine and plain transformers are steered at the same place and in the same
words, and neither knows. Random weights never write a stop token, and parity needs the same trace on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from tte_runtime.engine.request import EngineRequest
from tte_runtime.inputs.items import Item
from tte_runtime.inputs.prompt import PromptRenderer
from tte_runtime.types import Role, Think

__all__ = ["Steered", "Steering"]


class Steering:
    """How requests are steered now; shared by all who are to do the same.

    Attributes:
        unstoppable: no token ends a trace, so that it has exactly the length that is asked for.
        traces: text of an item -> its trace; such a request samples nothing and is fed the trace as given tokens.
        as_prompt: those are read as part of the prompt, as a second pass reads them.
    """

    def __init__(self) -> None:
        self.unstoppable = False
        self.traces: Mapping[str, tuple[int, ...]] = {}
        self.as_prompt = False

    @contextmanager
    def lengths(self, trace: int | None) -> Iterator[Think | None]:
        """Traces of exactly `trace` tokens, or of the model's own length where it is `None`; yields what to ask for."""
        self.unstoppable = trace is not None
        try:
            yield None if trace == 0 else Think(max_tokens=trace)
        finally:
            self.unstoppable = False

    @contextmanager
    def given(
        self, batch: Sequence[Any], traces: Sequence[tuple[int, ...]], *, as_prompt: bool = False
    ) -> Iterator[None]:
        """Requests of the batch's items are fed these traces instead of writing their own."""
        self.as_prompt = as_prompt
        self.traces = {item["text"]: trace for item, trace in zip(batch, traces, strict=True)}
        try:
            yield
        finally:
            self.traces = {}

    def apply(self, request: EngineRequest, text: str) -> EngineRequest:
        """The request as it is to run."""
        if self.unstoppable:
            request = replace(request, stop_ids=frozenset())
        if text not in self.traces:
            return request
        trace = self.traces[text]
        closing = () if not trace or trace[-1] in request.stop_ids else request.close_ids
        after = trace + closing + request.suffix_ids
        if not self.as_prompt:
            return replace(request, max_trace_tokens=0, suffix_ids=after)
        prompt_len = len(request.prompt_ids)
        more = torch.arange(prompt_len, prompt_len + len(after)) + request.position_delta
        positions = torch.cat([request.positions, more.expand(3, -1)], dim=1)
        ids = request.prompt_ids + after
        return replace(request, prompt_ids=ids, positions=positions, max_trace_tokens=0, suffix_ids=())


class Steered:
    """Renders as `renderer` does, steered; everything else of it shows through."""

    def __init__(self, renderer: PromptRenderer, steering: Steering) -> None:
        self._renderer, self._steering = renderer, steering

    def __getattr__(self, name: str) -> Any:
        return getattr(self._renderer, name)

    def render(self, item: Item, role: Role, think: Think | None, **more: Any) -> EngineRequest:
        """As `PromptRenderer.render`."""
        return self._steering.apply(self._renderer.render(item, role, think, **more), item.text)
