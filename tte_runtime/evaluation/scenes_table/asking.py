"""One system embeds the pool and the questions; which document came first for each question is kept on disk.

What is kept carries a hash of all that decided it (the system's fingerprint, every question and document with its
pixels, and what was asked for), so a run that was stopped goes on, and one of other weights or data starts anew.
Knows embedders and scenes; knows nothing of seeds of training or of tables.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from tte_runtime.embedder import Embedder
from tte_runtime.evaluation.scenes import MIN_POOL, Document, Test, first_documents, make_pool, make_tests
from tte_runtime.evaluation.scenes_table.controls import control_items
from tte_runtime.evaluation.scenes_table.systems import Probe, System
from tte_runtime.scenes.questions import KINDS, UNTRAINED


@dataclass(frozen=True, eq=False)
class Scenes:
    """What all systems are asked.

    Attributes:
        tests: questions of every kind, those that nobody was trained on among them. pool: the documents.
        seed: of both. digest: a hash of everything that a model sees of them, and of the answers.
    """

    tests: Sequence[Test]
    pool: Sequence[Document]
    seed: int
    digest: str

    @classmethod
    def make(cls, per_kind: int, seed: int = 0, limit: int | None = None, pool_size: int = MIN_POOL) -> Scenes:
        """`per_kind` questions a kind, of which the first `limit` are asked, and a pool for all of them."""
        tests = make_tests(per_kind, seed, (*KINDS, *UNTRAINED))
        pool = make_pool(tests, seed, pool_size)
        asked = [tests[place] for place in first_of_each(tests, per_kind if limit is None else limit)]
        return cls(asked, pool, seed, _digest(asked, pool))

    @property
    def kinds(self) -> list[str]:
        """Of every question, in order."""
        return [test.question.kind for test in self.tests]

    def places(self, probe: Probe, part: int) -> list[int]:
        """Which questions a row is asked: all, or the first `part` of each kind for a point of a curve."""
        return list(range(len(self.tests))) if probe.whole else first_of_each(self.tests, part, KINDS)


@dataclass(frozen=True, eq=False)
class Answers:
    """What came of the questions of one row.

    Attributes:
        places: which questions were asked, int64 [n].
        best: the row of the pool that came first, int64 [n].
        traces: of each question, "" where there is none.
        fingerprint: of the system.
    """

    places: NDArray[np.int64]
    best: NDArray[np.int64]
    traces: list[str]
    fingerprint: str


def first_of_each(tests: Sequence[Test], count: int, kinds: Sequence[str] = (*KINDS, *UNTRAINED)) -> list[int]:
    """The places of the first `count` questions of each kind, in order."""
    left = dict.fromkeys(kinds, count)
    places = []
    for place, test in enumerate(tests):
        if left.get(test.question.kind, 0):
            left[test.question.kind] -= 1
            places.append(place)
    return places


def document_vectors(embedder: Embedder, system: System, scenes: Scenes, folder: Path) -> NDArray[np.float32]:
    """The pool as a system embeds it, float32 [m, E]; thinking or not as its recipe says of documents."""
    path = folder / f"documents_{system.name}.npz"
    key = _key(embedder, scenes, "documents", system.traces)
    if (kept := _kept(path, key)) is not None:
        return kept["vectors"]
    think = embedder.recipe.roles["document"].think
    items = [
        {**document.item, "trace": document.answer.document_trace}
        if think and system.traces == "teacher"
        else document.item
        for document in scenes.pool
    ]
    results = embedder.embed(items, role="document", think=think, priority="corpus", show_progress_bar=True)
    vectors = np.stack([result.vector for result in results])
    _keep(path, key, vectors=vectors)
    return vectors


def ask(
    embedder: Embedder, probe: Probe, scenes: Scenes, documents: NDArray[np.float32], folder: Path, part: int
) -> Answers:
    """Ask a row its questions.

    Args:
        embedder: of the row's system.
        documents: the pool's vectors, [m, E].
        folder: where answers are kept.
        part: questions of each kind that points of curves are asked.
    """
    places = scenes.places(probe, part)
    path = folder / f"{probe.key}.npz"
    key = _key(embedder, scenes, probe.key, part if not probe.whole else "whole")
    if (kept := _kept(path, key)) is None:
        items = question_items(probe, [scenes.tests[place] for place in places], scenes.seed)
        think = probe.think(embedder.recipe.roles["query"].think)
        results = embedder.embed(items, role="query", think=think, priority="corpus", show_progress_bar=True)
        best = first_documents(np.stack([result.vector for result in results]), documents)
        kept = {"best": best, "traces": np.array([result.trace for result in results])}
        _keep(path, key, **kept)
    return Answers(np.array(places), kept["best"], kept["traces"].tolist(), embedder.fingerprint)


def question_items(probe: Probe, tests: Sequence[Test], seed: int) -> list[dict[str, Any]]:
    """What a row's system is given for each question."""
    if probe.control is not None:
        return control_items(probe.control, tests, seed)
    if probe.system.traces == "teacher":
        return [{**test.item, "trace": test.question.trace} for test in tests]
    return [test.item for test in tests]


def _digest(tests: Sequence[Test], pool: Sequence[Document]) -> str:
    digest = hashlib.sha256()
    told = [[test.question.kind, test.question.trace, test.question.answer.value] for test in tests]
    told += [[document.answer.medium, document.answer.value] for document in pool]
    for words, item in zip(told, [*(test.item for test in tests), *(one.item for one in pool)], strict=True):
        digest.update(json.dumps([*words, item.get("text")]).encode())
        digest.update(item["image"].tobytes() if "image" in item else b"")
    return digest.hexdigest()[:32]


def _key(embedder: Embedder, scenes: Scenes, *what: Any) -> str:
    return json.dumps([embedder.fingerprint, scenes.digest, scenes.seed, *what])


def _kept(path: Path, key: str) -> dict[str, NDArray[Any]] | None:
    """The arrays of a file that was written under this key; `None` where there is none, or it is another's."""
    try:
        with np.load(path) as file:
            return dict(file) if str(file["key"]) == key else None
    except (FileNotFoundError, BadZipFile, KeyError, ValueError):  # ValueError: no file of numpy's
        return None


def _keep(path: Path, key: str, **arrays: NDArray[Any]) -> None:
    """Write a file whole, or not at all."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.savez_compressed(file, key=np.array(key), **arrays)  # type: ignore[arg-type]
    os.replace(part, path)
