"""Embeds the gallery, asks the questions with and without thinking, and ranks: what the demo reports.

Knows vectors and results; knows nothing of how they are shown. Every score is a cosine.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tte_runtime.demo.gallery import is_answer
from tte_runtime.embedder import Embedder
from tte_runtime.evaluation.scenes import Document, Test
from tte_runtime.scenes.questions import answer_words
from tte_runtime.types import Result

SHOWN = 3


@dataclass(frozen=True, eq=False)
class Hit:
    """A document that was found: its cosine with the query, and whether it is the right one."""

    document: Document
    score: float
    right: bool


@dataclass(frozen=True, eq=False)
class Ranking:
    """What one query found.

    Attributes:
        result: the query as it was embedded.
        hits: the best `SHOWN` documents, best first.
        rank: the right document's place, from 1.
        size: how many documents were ranked.
    """

    result: Result
    hits: tuple[Hit, ...]
    rank: int
    size: int

    @property
    def right(self) -> bool:
        """The right document came first."""
        return self.rank == 1


@dataclass(frozen=True, eq=False)
class Asked:
    """One question, answered twice.

    Attributes:
        test: the question and the item that asks it.
        thinking: with a trace. direct: embedded at once.
        trace_right: the answer that stands in the trace is the teacher's.
    """

    test: Test
    thinking: Ranking
    direct: Ranking
    trace_right: bool


@dataclass(frozen=True, eq=False)
class Gallery:
    """Embedded documents: float32 vectors [n, E], the results they came from, and the seconds it took."""

    documents: tuple[Document, ...]
    results: tuple[Result, ...]
    vectors: NDArray[np.float32]
    seconds: float


def embed_gallery(embedder: Embedder, documents: Sequence[Document], *, progress: bool) -> Gallery:
    """Embed the documents as the recipe does by itself (`tte-tiny` thinks about documents too)."""
    started = time.perf_counter()
    results = embedder.embed(
        [document.item for document in documents],
        role="document",
        priority="corpus",
        show_progress_bar=progress,
    )
    seconds = time.perf_counter() - started
    return Gallery(tuple(documents), tuple(results), np.stack([result.vector for result in results]), seconds)


def ask(embedder: Embedder, test: Test, gallery: Gallery) -> Asked:
    """Ask with thinking, then without, against the same gallery."""
    thinking = embedder.embed(test.item, role="query", think=True)
    direct = embedder.embed(test.item, role="query", think=False)
    answered = answer_words(thinking.trace) == test.question.answer.value.split()
    return Asked(test, rank(test, thinking, gallery), rank(test, direct, gallery), answered)


def rank(test: Test, result: Result, gallery: Gallery) -> Ranking:
    """The gallery in the order of its cosines with a query; equal scores keep the gallery's order."""
    scores = gallery.vectors @ result.vector
    order = np.argsort(-scores, kind="stable")
    right = [is_answer(test, document) for document in gallery.documents]
    assert any(right), "a gallery holds the answer of every question"
    place = next(place for place, index in enumerate(order, start=1) if right[index])
    hits = tuple(Hit(gallery.documents[i], float(scores[i]), right[i]) for i in order[:SHOWN])
    return Ranking(result, hits, place, len(order))
