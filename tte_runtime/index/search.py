"""Exact search: a question's vector against every vector of an index, in one matrix product. Knows no files' layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tte_runtime.errors import IndexFileError
from tte_runtime.index.store import Entry, Settings, read_entries, read_settings, read_vectors, refuse_other


@dataclass(frozen=True)
class Hit:
    """A document found.

    Attributes:
        rank: from 1.
        score: cosine similarity.
        path: relative to the folder that was indexed.
        trace: the document's own.
    """

    rank: int
    score: float
    path: str
    trace: str


class Index:
    """A finished index, ready to be searched.

    Args:
        settings: whose vectors these are.
        entries: the documents that are in it now.
        vectors: float32 [n, E], a row for each of `entries`.
    """

    def __init__(self, settings: Settings, entries: Sequence[Entry], vectors: NDArray[np.float32]) -> None:
        assert len(entries) == len(vectors)
        self.settings = settings
        self.entries = tuple(entries)
        self.vectors = vectors

    @classmethod
    def open(cls, path: Path) -> Index:
        """Read an index.

        Raises:
            IndexFileError: there is none, its build was not finished, or its files are damaged.
        """
        settings = read_settings(path)
        if not settings.complete:
            raise IndexFileError(
                f"the build of index {path} was not finished. Run it again: it goes on where it stopped."
            )
        entries = list(read_entries(path, settings.dim).values())
        return cls(settings, entries, read_vectors(path, settings.dim)[[entry.row for entry in entries]])

    def check_fingerprint(self, fingerprint: str, model: str) -> None:
        """Refuse vectors of another embedder; raises IndexFileError."""
        refuse_other(self.settings, fingerprint, model)

    def search(self, vector: NDArray[np.float32], top: int = 10) -> list[Hit]:
        """The `top` nearest documents by cosine, exactly; equal scores in the order of indexing.

        Args:
            vector: float32 [E], L2-normalised.
            top: how many at most.
        """
        assert vector.shape == (self.settings.dim,), "the fingerprint decides the dimension"
        scores = self.vectors @ vector
        best = np.argsort(-scores, kind="stable")[:top]
        found = [(self.entries[i], float(scores[i])) for i in best]
        return [Hit(rank, score, entry.path, entry.trace) for rank, (entry, score) in enumerate(found, start=1)]
