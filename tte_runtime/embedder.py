"""The door: load a checkpoint, embed queries and documents, stream a trace, compare vectors.

In the habits of sentence-transformers where they fit. Knows roles, options and results; what happens between is
`pipeline.py` (preparing) and `engine/` (running).
"""

from __future__ import annotations

import hashlib
import json
import queue
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tte_runtime.batching import in_order
from tte_runtime.errors import BatchError, OptionError, one_of
from tte_runtime.models.checkpoint import find_folder
from tte_runtime.outcome import Outcome
from tte_runtime.pending import Pending
from tte_runtime.pipeline import Pipeline
from tte_runtime.reasoners.base import Reasoner
from tte_runtime.recipes.base import Recipe
from tte_runtime.streaming import Piece, trace_events
from tte_runtime.system import load_system
from tte_runtime.thinking import only_if_possible, parse_request, thinking_of
from tte_runtime.traces.store import TraceStore
from tte_runtime.types import Priority, Result, Role, Snapshot, Think, TraceToken, check_priority, check_role


class Embedder:
    """A think-then-embed model behind a continuously batched engine. Safe to use from several threads.

    Make one with `Embedder.from_pretrained`. Use it as a context manager, or call `close`, to stop its threads.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.config = pipeline.model.config
        self.fingerprint = hashlib.sha256(json.dumps(pipeline.identity, sort_keys=True).encode()).hexdigest()[:32]
        self.recipe: Recipe = pipeline.recipe

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        recipe: str | Recipe | None = None,
        reasoner: Reasoner | None = None,
        traces: str | Path | TraceStore | None = None,
        **options: Any,
    ) -> Embedder:
        """Load a checkpoint.

        Args:
            name_or_path: a bundled checkpoint ("tte-tiny"), a folder, or a model id of the Hugging Face hub.
            recipe: a recipe or its name, where the checkpoint does not say or another is wanted.
            reasoner: writes the traces in the embedder's stead: a `LocalReasoner` or a `RemoteReasoner`.
            traces: where traces are kept and looked up before one is written: a file, or an open `TraceStore`.
            **options: fields of `EngineConfig`: device, dtype, max_context, kv_cache_tokens, max_batch_size, ...

        Raises:
            CheckpointError: no such checkpoint, or its files do not fit together.
            UnsupportedModelError: a model family without a decoder here. RecipeError: no recipe fits.
            OptionError: an unknown option, or one out of range. TraceStoreError: `traces` is no store of ours.
        """
        return cls(load_system(find_folder(name_or_path), recipe, reasoner, traces, options))

    @property
    def embedding_dim(self) -> int:
        """E, the length of a vector before any `truncate_dim`."""
        return self._pipeline.engine.decoder.spec.hidden_size

    def embed(
        self,
        items: Any,
        *,
        role: Role,
        think: Think | bool | None = None,
        priority: Priority = "interactive",
        normalize_embeddings: bool = True,
        truncate_dim: int | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
        errors: Literal["raise", "return"] = "raise",
    ) -> Any:
        """Embed one request, or a list of them, and say how it went.

        Args:
            items: a text, a picture, a video, a page of a PDF, a mapping with "text" and "image", "images", "video"
                or "pdf" (and "trace", where one was written elsewhere), or a list of these;
                `tte_runtime.inputs.items` has every form.
            role: "query" or "document".
            think: `None` does as the recipe does for the role; False embeds at once; True or `Think(...)` thinks.
            priority: "interactive" overtakes "corpus".
            normalize_embeddings: L2-normalise.
            truncate_dim: keep the first so many dimensions, normalised again.
            batch_size: most requests of this call in work at once; the engine's own limit by default.
            show_progress_bar: on stderr.
            errors: for lists, "raise" a `BatchError` that carries the good results once all are done, or
                "return" each failed request's error in its place.

        Returns:
            a `Result` for one request, a list of them for a list.

        Raises:
            OptionError, InputError: at the door. BatchError: some requests of a list failed.
        """
        check_role(role), check_priority(priority)
        if errors not in ("raise", "return"):
            raise OptionError(one_of("errors", errors, ("raise", "return")))
        self._check_dim(truncate_dim)
        thinking = thinking_of(self._pipeline, role, think)

        def submit(item: Any) -> Pending:
            return self._pipeline.submit(
                parse_request(item, think),
                role,
                thinking,
                priority=priority,
                normalize=normalize_embeddings,
                dim=truncate_dim,
            )

        def finish(pending: Pending) -> Result:
            return self._result(pending.result())

        if not isinstance(items, (list, tuple)):
            return finish(submit(items))
        window = self._window(batch_size)
        outcomes = list(in_order(items, submit, finish, window=window, progress=show_progress_bar))
        failed = {i: outcome for i, outcome in enumerate(outcomes) if isinstance(outcome, Exception)}
        if failed and errors == "raise":
            raise BatchError([None if i in failed else outcome for i, outcome in enumerate(outcomes)], failed)
        return outcomes

    def encode_query(self, sentences: Any, **options: Any) -> NDArray[np.float32] | torch.Tensor:
        """`encode` for queries."""
        return self.encode(sentences, role="query", **options)

    def encode_document(self, sentences: Any, **options: Any) -> NDArray[np.float32] | torch.Tensor:
        """`encode` for documents, with the priority of a corpus job."""
        return self.encode(sentences, role="document", **{"priority": "corpus", **options})

    def encode(
        self,
        sentences: Any,
        *,
        role: Role | None = None,
        convert_to_tensor: bool = False,
        **options: Any,
    ) -> NDArray[np.float32] | torch.Tensor:
        """Vectors only.

        Args:
            sentences: as `items` of `embed`.
            role: needed where the recipe treats queries and documents differently.
            convert_to_tensor: a torch tensor instead of an array.
            **options: as for `embed`: think, batch_size, show_progress_bar, normalize_embeddings, truncate_dim, ...

        Returns:
            float32 [E] for one request, [n, E] for a list.

        Raises:
            OptionError: no role is given where one is needed, or an option is unknown. Else as `embed`.
        """
        if role is None:
            if not self.recipe.same_for_both_roles:
                raise OptionError(
                    f"recipe {self.recipe.name!r} embeds queries and documents differently. "
                    "Use encode_query or encode_document, or give role=."
                )
            role = "query"
        _check_encode_options(options)
        results = self.embed(sentences, role=role, **options)
        if isinstance(results, list):
            dim = options.get("truncate_dim") or self.embedding_dim
            vectors = np.stack([r.vector for r in results]) if results else np.empty((0, dim), np.float32)
        else:
            vectors = results.vector
        return torch.from_numpy(vectors) if convert_to_tensor else vectors

    def stream(
        self,
        item: Any,
        *,
        role: Role,
        think: Think | bool | None = None,
        priority: Priority = "interactive",
        normalize_embeddings: bool = True,
        truncate_dim: int | None = None,
        snapshot_every: int = 0,
    ) -> Iterator[TraceToken | Snapshot | Result]:
        """The trace token by token as it is written, then the result. Leaving the loop early cancels the request.

        Args:
            snapshot_every: yield the embedding as it would stand if the trace ended now after every so many tokens,
                read through the same suffix on a fork of the cache; 0 for never. Best effort: a snapshot is left out
                where the cache has no room for a fork.

        The other arguments and the errors are those of `embed` for one request.
        """
        check_role(role), check_priority(priority)
        self._check_dim(truncate_dim)
        thinking = thinking_of(self._pipeline, role, think)
        if snapshot_every:
            if thinking is None:
                raise OptionError(f"snapshot_every={snapshot_every} needs a trace, and this request has none.")
            thinking = only_if_possible(self._pipeline, replace(thinking, snapshot_every=snapshot_every))
        events: queue.SimpleQueue[tuple[int, Piece] | None] = queue.SimpleQueue()
        pending = self._pipeline.submit(
            parse_request(item, think),
            role,
            thinking,
            priority=priority,
            normalize=normalize_embeddings,
            dim=truncate_dim,
            on_piece=lambda index, piece: events.put((index, piece)),
        )
        pending.add_done_callback(lambda: events.put(None))

        def generate() -> Iterator[TraceToken | Snapshot | Result]:
            try:
                yield from trace_events(iter(events.get, None), self._pipeline.trace_text)
                yield self._result(pending.result())
            finally:
                pending.cancel()

        return generate()

    @staticmethod
    def similarity(a: Any, b: Any) -> torch.Tensor:
        """Cosine similarities, float32 [n, m], of vectors [n, E] and [m, E] (one vector counts as n = 1)."""
        left, right = (torch.atleast_2d(torch.as_tensor(np.asarray(x), dtype=torch.float32)) for x in (a, b))
        if left.shape[-1] != right.shape[-1]:
            raise OptionError(f"vectors of {left.shape[-1]} and {right.shape[-1]} dimensions cannot be compared.")
        return torch.nn.functional.normalize(left, dim=-1) @ torch.nn.functional.normalize(right, dim=-1).T

    def clear_caches(self) -> None:
        """Forget cached prefixes and picture features, as after loading. For measurements; call it while idle."""
        self._pipeline.clear_caches()

    def close(self) -> None:
        """Stop the threads; requests still in work fail with EngineError. May be called twice."""
        self._pipeline.close()

    def __enter__(self) -> Embedder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _result(self, outcome: Outcome) -> Result:
        return outcome.to_result(self.fingerprint, self._pipeline.trace_text)

    def _window(self, batch_size: int | None) -> int:
        if batch_size is None:
            return 2 * self.config.max_batch_size  # enough to keep the engine full while others are prepared
        if not isinstance(batch_size, int) or batch_size < 1:
            raise OptionError(f"batch_size must be a positive integer, got {batch_size!r}.")
        return batch_size

    def _check_dim(self, dim: int | None) -> None:
        if dim is not None and not 1 <= dim <= self.embedding_dim:
            raise OptionError(f"truncate_dim must be in 1..{self.embedding_dim}, got {dim}.")


def _check_encode_options(options: dict[str, Any]) -> None:
    known = ("think", "priority", "normalize_embeddings", "truncate_dim", "batch_size", "show_progress_bar")
    for name in options:
        if name not in known:
            raise OptionError(one_of("option", name, (*known, "role", "convert_to_tensor")))
