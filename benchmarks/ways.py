"""The ways to embed a batch that are held against each other, loaded once for a checkpoint, steered alike.

Each can embed freely, which is what is timed, and embed given traces through the same path, which is what parity is
judged by. Knows engines; knows no clock and no table.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.baselines.padded import PaddedTransformers
from benchmarks.steering import Steered, Steering
from tte_runtime.embedder import Embedder
from tte_runtime.evaluation.compare import TOLERANCE
from tte_runtime.evaluation.plain import PlainEmbedder
from tte_runtime.pipeline import Pipeline
from tte_runtime.reasoners.local import LocalReasoner, LocalWriter
from tte_runtime.recipes.base import Recipe
from tte_runtime.system import load_system
from tte_runtime.types import Think

__all__ = ["DEFAULT_WAYS", "OURS", "ROLE", "TWO_PASS", "WAYS", "Loaded", "Runtime", "Way"]

OURS, TWO_PASS, ONE_PASS, COMPILED, FLASH, TWO_MODELS = (
    *("ours", "two-pass", "one-pass", "compiled", "flash", "two-models"),
)
WAYS = {
    OURS: "this runtime, caches emptied before every batch",
    TWO_PASS: "plain transformers: generate, then encode prompt and trace again",
    ONE_PASS: "plain transformers: the cache of generate kept, one more forward",
    COMPILED: "as one-pass, with a static cache and the decode step compiled",
    FLASH: "as one-pass, with flash-attn 2 as the attention",
    TWO_MODELS: "this runtime with a reasoner and an embedder of the same shape (TTE_s), one tower between them",
}
DEFAULT_WAYS = (OURS, TWO_PASS, ONE_PASS)
ROLE: Any = "query"
Traces = Sequence[tuple[int, ...]]


class Embed(Protocol):
    """Embeds a batch."""

    def __call__(self, batch: list[Any], think: Think | None) -> list[Any]: ...


@dataclass(frozen=True)
class Way:
    """One way.

    Attributes:
        embed: (batch, think) -> results, freely. given: (batch, traces) -> results on those traces.
        before: outside the clock. spent: results -> milliseconds by stage of that batch.
        bare: reads the last token's state where the others have a head, and is judged so.
    """

    name: str
    embed: Embed
    given: Callable[[list[Any], Traces], list[Any]]
    before: Callable[[], None]
    spent: Callable[[list[Any]], dict[str, float]]
    bare: bool = False


class Runtime:
    """This runtime with a checkpoint loaded, its requests steered.

    Args:
        folder: the checkpoint. recipe: how it embeds.
        steering: shared with others who are to do the same.
        reasoner: the checkpoint that writes the traces in the embedder's stead, or `None`.
        options: of the engine.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        steering: Steering,
        *,
        reasoner: Path | None = None,
        **options: Any,
    ) -> None:
        writer = None if reasoner is None else LocalReasoner(reasoner, recipe=recipe)
        self.pipeline = load_system(folder, recipe, writer, None, options)
        self.embedder = Embedder(self.pipeline)
        self.steering = steering
        self._steer(self.pipeline)
        if isinstance(self.pipeline.writer, LocalWriter):
            self._steer(self.pipeline.writer)

    def _steer(self, part: Pipeline | LocalWriter) -> None:
        """Put our renderer in the place of the one of a part that thinks or embeds."""
        renderer: Any = Steered(part.model.renderer, self.steering)
        part.model = replace(part.model, renderer=renderer)

    def way(self, name: str = OURS) -> Way:
        """Batches through it."""

        def embed(batch: list[Any], think: Think | None) -> list[Any]:
            return list(self.embedder.embed(batch, role=ROLE, think=think or False))

        def given(batch: list[Any], traces: Traces) -> list[Any]:
            with self.steering.given(batch, traces):
                return embed(batch, None)

        return Way(name, embed, given, self.embedder.clear_caches, _spent)

    def close(self) -> None:
        """Stop its threads."""
        self.embedder.close()


class Loaded:
    """A checkpoint in the runtime and in plain transformers, and the ways through them.

    Args:
        folder: the checkpoint. recipe: how it embeds.
        options: of the engine; device and dtype are everybody's.
    """

    def __init__(self, folder: Path, recipe: Recipe, **options: Any) -> None:
        self._folder, self._recipe, self._options = folder, recipe, options
        self._two: Runtime | None = None
        self.steering = Steering()
        self.runtime = Runtime(folder, recipe, self.steering, **options)
        self.config = self.runtime.embedder.config
        self.plain = self._load_plain(self.config.torch_dtype)
        self._wide: PlainEmbedder | None = self.plain if self.config.dtype == "float32" else None

    def _load_plain(self, dtype: torch.dtype) -> PlainEmbedder:
        place: Any = {"device": self.config.device, "dtype": dtype}
        plain = PlainEmbedder.from_pretrained(self._folder, recipe=self._recipe, **place)
        plain.renderer = Steered(plain.renderer, self.steering)  # type: ignore[assignment]
        return plain

    def ways(self, names: Sequence[str]) -> tuple[dict[str, Way], dict[str, str]]:
        """Those of that name, and for the ones that cannot run here why not."""
        found, missing = {}, {}
        for name in names:
            if name == FLASH and (self.config.device == "cpu" or importlib.util.find_spec("flash_attn") is None):
                missing[name] = "flash-attn needs a GPU and is not installed here"
            else:
                found[name] = self._make(name)
        return found, missing

    def _make(self, name: str) -> Way:
        if name == OURS:
            return self.runtime.way()
        if name != TWO_MODELS:
            return self._padded(name)
        if self._two is None:
            # One set of prompts and one reading rule for both; the pages of a head are not needed.
            recipe = replace(self._recipe, readout="last")
            self._two = Runtime(self._folder, recipe, self.steering, reasoner=self._folder, **self._options)
        return replace(self._two.way(name), bare=True)

    def _padded(self, name: str) -> Way:
        way = PaddedTransformers(
            self.plain,
            passes="two" if name == TWO_PASS else "one",
            static=name == COMPILED,
            attention="flash_attention_2" if name == FLASH else "sdpa",
        )

        def embed(batch: list[Any], think: Think | None) -> list[Any]:
            return list(way.embed(batch, ROLE, think))

        def given(batch: list[Any], traces: Traces) -> list[Any]:
            longest = max(len(trace) for trace in traces)
            forced = self.steering.unstoppable  # else the recipe's limit, so that a static cache has its usual size
            think = Think(max_tokens=longest if forced else None) if longest else None
            return way.embed(batch, ROLE, think, traces)

        return Way(name, embed, given, lambda: None, lambda results: way.spent)

    def reference(self, batch: list[Any], traces: Traces, *, bare: bool) -> tuple[NDArray[np.float32], float]:
        """Vectors [B, E] of plain transformers in float32, one request at a time, and how far others may be off.

        In float32 that is the tolerance of the demo's comparison; in 16 bits twice the error that plain transformers
        itself makes in them, on the same traces. `bare` leaves a head out.
        """
        if self._wide is None:
            self._wide = self._load_plain(torch.float32)

        def vectors(plain: PlainEmbedder) -> NDArray[np.float32]:
            reader = PlainEmbedder(plain.model, plain.renderer, None, None) if bare else plain
            return np.stack([reader.embed(item, role=ROLE, think=False).vector for item in batch])

        with self.steering.given(batch, traces):
            wanted = vectors(self._wide)
            if self._wide is self.plain:
                return wanted, TOLERANCE
            return wanted, 2 * float(np.abs(vectors(self.plain) - wanted).max())

    def traces(self, batch: list[Any], think: Think | None) -> list[tuple[int, ...]]:
        """What plain transformers writes: the traces that all ways are judged on."""
        written = self._padded(ONE_PASS).embed(batch, think)
        return [tuple(result.trace_ids) for result in written]

    def judge(
        self, ways: Mapping[str, Way], batch: list[Any], traces: Traces
    ) -> tuple[dict[str, str], dict[str, dict[str, float]]]:
        """Which ways are further from the reference than they may be on these traces, and why; everybody's error."""
        failures, errors = {}, {}
        references = {bare: self.reference(batch, traces, bare=bare) for bare in {way.bare for way in ways.values()}}
        for name, way in ways.items():
            way.before()
            wanted, tolerance = references[way.bare]
            got = np.stack([result.vector for result in way.given(batch, traces)])
            error = float(np.abs(got - wanted).max())
            errors[name] = {"max_error": error, "tolerance": tolerance}
            if not error <= tolerance:  # a NaN is no agreement
                failures[name] = f"parity failed: an element is off by {error:.2g}, and {tolerance:.2g} is allowed"
        return failures, errors

    def close(self) -> None:
        """Stop the runtimes' threads."""
        self.runtime.close()
        if self._two is not None:
            self._two.close()


def _spent(results: list[Any]) -> dict[str, float]:
    timings = results[0].timings
    stages = ("preprocess", *(["reasoner"] if timings.reasoner else []), "vision", "prefill", "decode", "readout")
    return {stage: getattr(timings, stage) for stage in stages}
