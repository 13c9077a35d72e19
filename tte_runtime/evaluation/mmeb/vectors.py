"""Vectors of many named requests, kept on disk as they come: what a kill interrupts goes on where it was.

The store is that of `tte_runtime.index`: a vector is written before its entry, and one embedder's vectors are never
mixed with another's. A request that failed is not kept, so the next run tries it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from tte_runtime.evaluation.mmeb.tasks import Request
from tte_runtime.index.store import IndexWriter, Settings, read_vectors
from tte_runtime.recipes.template import fields_of
from tte_runtime.types import Role, Think

if TYPE_CHECKING:
    from tte_runtime.embedder import Embedder

BLOCK = 64  # requests embedded between two writes: what a kill may cost


@dataclass(frozen=True)
class How:
    """How a run embeds.

    Attributes:
        model: what the embedder was loaded from.
        think: `None` as the recipe does; False embeds at once.
        max_trace_tokens: limit of a trace; `None` for the recipe's.
        batch_size: most requests in work at once; `None` for the engine's.
    """

    model: str = ""
    think: bool | None = None
    max_trace_tokens: int | None = None
    batch_size: int | None = None

    @property
    def thinking(self) -> Think | bool | None:
        """As `think` of `Embedder.embed`."""
        limited = self.think is not False and self.max_trace_tokens is not None
        return Think(max_tokens=self.max_trace_tokens) if limited else self.think


@dataclass(frozen=True)
class Embedded:
    """Vectors by name, float32 [n, E] with rows by name, and the error of each request that failed."""

    rows: dict[str, int]
    vectors: NDArray[np.float32]
    failed: dict[str, Exception]


def embed_requests(
    embedder: Embedder, requests: Mapping[str, Request], role: Role, store: Path, how: How, *, title: str
) -> Embedded:
    """Embed what `store` does not have yet; a progress bar called `title` goes to stderr.

    Raises:
        IndexFileError: the store was written by another embedder or with other options, or is damaged or in use.
    """
    settings = Settings(embedder.fingerprint, how.model, embedder.embedding_dim, how.think, how.max_trace_tokens)
    takes_instruction = "instruction" in fields_of(embedder.recipe.roles[role].prompt)
    hashes = {name: digest(request) for name, request in requests.items()}
    failed: dict[str, Exception] = {}
    store.parent.mkdir(parents=True, exist_ok=True)
    with IndexWriter(store, settings) as writer:
        kept = {n for n, sha in hashes.items() if n in writer.entries and writer.entries[n].sha256 == sha}
        todo = [name for name in requests if name not in kept]
        with tqdm(total=len(requests), initial=len(kept), unit="item", desc=title, disable=None) as bar:
            for start in range(0, len(todo), BLOCK):
                names = todo[start : start + BLOCK]
                items = [requests[name].item(takes_instruction) for name in names]
                failed |= _embed_block(embedder, writer, dict(zip(names, items, strict=True)), hashes, role, how)
                bar.update(len(names))
        writer.finish()
        rows = {name: writer.entries[name].row for name in requests if name not in failed}
    return Embedded(rows, read_vectors(store, settings.dim), failed)


def _embed_block(
    embedder: Embedder, writer: IndexWriter, items: dict[str, Any], hashes: Mapping[str, str], role: Role, how: How
) -> dict[str, Exception]:
    """Embed a block and write it. Returns the error of each request that failed."""
    outcomes = embedder.embed(
        list(items.values()),
        role=role,
        think=how.thinking,
        priority="corpus",
        batch_size=how.batch_size,
        errors="return",
    )
    good = {name: done for name, done in zip(items, outcomes, strict=True) if not isinstance(done, Exception)}
    if good:
        documents = [(name, hashes[name], done.trace) for name, done in good.items()]
        writer.add(documents, np.stack([done.vector for done in good.values()]))
    return {name: done for name, done in zip(items, outcomes, strict=True) if isinstance(done, Exception)}


def digest(request: Request) -> str:
    """A hash of a request: its words, and path, size and time of each of its files."""
    paths = [path for value in request.media.values() for path in (value if isinstance(value, list) else [value])]
    stamps = [(path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else None for path in paths]
    whole = [request.instruction, request.text, list(request.media), [str(path) for path in paths], stamps]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()
