"""The ways to embed a batch that are held against each other, loaded once for a checkpoint, steered alike.

Each can embed freely, which is what is timed, and embed given traces through the same path, which is what parity is
judged by. Knows engines; knows no clock and no table.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.baselines.padded import PaddedTransformers
from benchmarks.steering import Steered
from tte_runtime.config import EngineConfig
from tte_runtime.embedder import Embedder
from tte_runtime.evaluation.compare import TOLERANCE
from tte_runtime.evaluation.plain import PlainEmbedder
from tte_runtime.pipeline import load_pipeline
from tte_runtime.recipes.base import Recipe
from tte_runtime.types import Think

__all__ = ["DEFAULT_WAYS", "OURS", "WAYS", "Loaded", "Way"]

OURS, TWO_PASS, ONE_PASS, COMPILED, FLASH = "ours", "two-pass", "one-pass", "compiled", "flash"
WAYS = {
    OURS: "this runtime, caches emptied before every batch",
    TWO_PASS: "plain transformers: generate, then encode prompt and trace again",
    ONE_PASS: "plain transformers: the cache of generate kept, one more forward",
    COMPILED: "as one-pass, with a static cache and the decode step compiled",
    FLASH: "as one-pass, with flash-attn 2 as the attention",
}
DEFAULT_WAYS = (OURS, TWO_PASS, ONE_PASS)
ROLE: Any = "query"
Traces = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class Way:
    """One way.

    Attributes:
        embed: (batch, think) -> results, freely. given: (batch, traces) -> results on those traces.
        before: outside the clock. spent: milliseconds of the last batch by stage.
    """

    name: str
    embed: Callable[[list[Any], Think | None], list[Any]]
    given: Callable[[list[Any], Traces], list[Any]]
    before: Callable[[], None]
    spent: Callable[[list[Any]], dict[str, float]]


class Loaded:
    """A checkpoint in the runtime and in plain transformers, and the ways through them.

    Args:
        folder: the checkpoint. recipe: how it embeds.
        device, dtype: of everything. options: of the engine besides.
    """

    def __init__(self, folder: Path, recipe: Recipe, *, device: str, dtype: str, **options: Any) -> None:
        config = EngineConfig.from_options(device=device, dtype=dtype, **options)
        self.pipeline, self.config, digest = load_pipeline(folder, config, recipe)
        self.embedder = Embedder(self.pipeline, self.config, digest)
        self.plain = self._load_plain(folder, recipe, self.config.torch_dtype)
        self.steered = Steered(self.pipeline.renderer)
        self.pipeline.renderer = self.plain.renderer = self.steered  # type: ignore[assignment]
        self._reference: Callable[[], PlainEmbedder] = lambda: self._load_plain(folder, recipe, torch.float32)
        self._wide: PlainEmbedder | None = self.plain if self.config.dtype == "float32" else None

    def _load_plain(self, folder: Path, recipe: Recipe, dtype: torch.dtype) -> PlainEmbedder:
        return PlainEmbedder.from_pretrained(folder, recipe=recipe, device=self.config.device, dtype=dtype)

    def ways(self, names: Sequence[str]) -> tuple[dict[str, Way], dict[str, str]]:
        """Those of that name, and for the ones that cannot run here why not."""
        found, missing = {}, {}
        for name in names:
            if name == FLASH and (self.config.device == "cpu" or importlib.util.find_spec("flash_attn") is None):
                missing[name] = "flash-attn needs a GPU and is not installed here"
            else:
                found[name] = self._ours() if name == OURS else self._padded(name)
        return found, missing

    def _ours(self) -> Way:
        def embed(batch: list[Any], think: Think | None) -> list[Any]:
            return list(self.embedder.embed(batch, role=ROLE, think=think or False))

        def given(batch: list[Any], traces: Traces) -> list[Any]:
            with self.given(batch, traces):
                return embed(batch, None)

        def spent(results: list[Any]) -> dict[str, float]:
            t = results[0].timings
            stages = ("preprocess", "vision", "prefill", "decode", "readout")
            return {stage: getattr(t, stage) for stage in stages}

        return Way(OURS, embed, given, self.embedder.clear_caches, spent)

    def _padded(self, name: str) -> Way:
        way = PaddedTransformers(
            self.plain,
            passes="two" if name == TWO_PASS else "one",
            static=name == COMPILED,
            attention="flash_attention_2" if name == FLASH else "sdpa",
        )

        def given(batch: list[Any], traces: Traces) -> list[Any]:
            longest = max(len(trace) for trace in traces)
            return way.embed(batch, ROLE, Think(max_tokens=longest) if longest else None, traces)

        return Way(
            name,
            lambda batch, think: way.embed(batch, ROLE, think),
            given,
            lambda: None,
            lambda results: way.spent,
        )

    @contextmanager
    def lengths(self, trace: int | None) -> Iterator[Think | None]:
        """Traces of exactly `trace` tokens, or of the model's own length where it is `None`; yields what to ask for."""
        self.steered.unstoppable = trace is not None
        try:
            yield None if trace == 0 else Think(max_tokens=trace)
        finally:
            self.steered.unstoppable = False

    @contextmanager
    def given(self, batch: list[Any], traces: Traces) -> Iterator[None]:
        """Requests are fed these traces instead of writing their own."""
        self.steered.traces = {item["text"]: trace for item, trace in zip(batch, traces, strict=True)}
        try:
            yield
        finally:
            self.steered.traces = {}

    def reference(self, batch: list[Any], traces: Traces) -> tuple[NDArray[np.float32], float]:
        """Vectors [B, E] of plain transformers in float32, one request at a time, and how far others may be off.

        In float32 that is the tolerance of the demo's comparison; in 16 bits twice the error that plain transformers
        itself makes in them, on the same traces.
        """
        if self._wide is None:
            self._wide = self._reference()
            self._wide.renderer = self.steered  # type: ignore[assignment]
        with self.given(batch, traces):
            wanted = _vectors(self._wide, batch)
            if self._wide is self.plain:
                return wanted, TOLERANCE
            return wanted, 2 * float(np.abs(_vectors(self.plain, batch) - wanted).max())

    def close(self) -> None:
        """Stop the runtime's threads."""
        self.embedder.close()


def _vectors(plain: PlainEmbedder, batch: list[Any]) -> NDArray[np.float32]:
    return np.stack([plain.embed(item, role=ROLE, think=False).vector for item in batch])
