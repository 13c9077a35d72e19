"""How well a checkpoint thinks and retrieves on held-out scenes: traces judged against the teacher's, Hit@1
in one pooled gallery.

Works with anything that embeds lists of items (the protocol below): the runtime's Embedder, or plain
transformers in a thin wrapper. The pool holds every question's answer and near misses; no document is right
for a question it is not the answer of. Knows nothing of models or training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tte_runtime.errors import OptionError
from tte_runtime.scenes import pictures
from tte_runtime.scenes.distractors import disturbed, near_misses
from tte_runtime.scenes.draw import draw_picture, draw_scene
from tte_runtime.scenes.questions import (
    KINDS,
    UNTRAINED,
    Answer,
    Question,
    answer_words,
    make_question,
    trace_words,
)
from tte_runtime.scenes.split import split_scene
from tte_runtime.scenes.world import CELLS, Scene

STREAM = 7001
MIN_POOL = 1000
NEAR_MISSES = 2
PICTURE_SIDES_PX = (56, 84, 112, 168, 224)


class Embedded(Protocol):
    """What comes back for one item: an L2-normalised float32 vector [E] and the trace as text (empty
    without thinking).
    """

    @property
    def vector(self) -> NDArray[np.float32]: ...
    @property
    def trace(self) -> str: ...


class SceneEmbedder(Protocol):
    """Anything that embeds a list of items; `think` False embeds at once."""

    def embed(self, items: list[Any], /, *, role: Literal["query", "document"], think: bool) -> Sequence[Embedded]: ...


@dataclass(frozen=True)
class Test:
    """A held-out question and the item that asks it."""

    question: Question
    item: dict[str, Any]


@dataclass(frozen=True)
class Document:
    """A document of the pool: what it is, and the item that shows it."""

    answer: Answer
    item: dict[str, Any]


def make_tests(per_kind: int, seed: int = 0, kinds: Sequence[str] = KINDS) -> list[Test]:
    """`per_kind` held-out questions of each kind, each about a test scene of its own. Raises OptionError
    for an unknown kind. The kinds that nobody is trained on (UNTRAINED) come where they are asked for.
    """
    known = (*KINDS, *UNTRAINED)
    unknown = sorted(set(kinds) - set(known))
    if unknown:
        raise OptionError(f"unknown kinds {unknown}: a kind is one of {', '.join(known)}. Leave `kinds` out for all.")
    tests: list[Test] = []
    for kind in kinds:
        rng = np.random.default_rng([STREAM, seed, known.index(kind)])
        found = 0
        while found < per_kind:
            scene = split_scene(rng, "test")
            question = make_question(kind, scene, rng, "test")
            if question is None:
                continue
            found += 1
            item: dict[str, Any] = {"text": question.text}
            if question.scene is not None:
                item = {"image": draw_scene(scene, rng), **item}
            tests.append(Test(question, item))
    return tests


def _draw(answer: Answer, rng: np.random.Generator) -> dict[str, Any]:
    """The item that shows `answer` as a document."""
    if answer.medium == "text":
        return {"text": answer.value}
    image: Image.Image
    if answer.medium == "picture":
        image = draw_picture(answer.value, int(rng.choice(PICTURE_SIDES_PX)), rng)
    else:
        image = draw_scene(Scene.parse(answer.value), rng)
    return {"image": image}


def make_pool(tests: Sequence[Test], seed: int = 0, size: int = MIN_POOL) -> list[Document]:
    """All pictures, categories and cells, every answer, its near misses, and more boards until there are at
    least `size` documents.

    A board and its description never both stand in the pool, so for each question exactly one document is
    right.
    """
    rng = np.random.default_rng([STREAM, seed, 99])
    chosen: dict[str, Answer] = {}

    def add(answer: Answer) -> None:
        chosen.setdefault(answer.value, answer)

    for test in tests:
        add(test.question.answer)
    for name in pictures.names():
        add(Answer("picture", name))
    for word in (*sorted(set(pictures.categories().values())), *CELLS):
        add(Answer("text", word))
    for test in tests:
        if test.question.answer.medium == "scene" or test.question.kind == "describe":
            scene = test.question.scene or Scene.parse(test.question.answer.value)
            for wrong in near_misses(test.question, scene, rng, NEAR_MISSES):
                add(wrong)
    while len(chosen) < size:
        scene = split_scene(rng, "test")
        add(Answer("scene", scene.description))
        add(Answer("text", disturbed(scene, rng).description))
    return [Document(answer, _draw(answer, rng)) for answer in chosen.values()]


def evaluate_traces(embedder: SceneEmbedder, tests: Sequence[Test]) -> dict[str, dict[str, float]]:
    """By kind: share of right answers behind `</think>` ("answer") and of traces right word for word
    ("trace"); number of questions ("count").
    """
    results = embedder.embed([test.item for test in tests], role="query", think=True)
    return judge_traces(tests, [result.trace for result in results])


def judge_traces(tests: Sequence[Test], traces: Sequence[str]) -> dict[str, dict[str, float]]:
    """As `evaluate_traces`, for traces that are there already."""
    hits: dict[str, list[tuple[bool, bool]]] = {}
    for test, trace in zip(tests, traces, strict=True):
        answer = answer_words(trace) == test.question.answer.value.split()
        whole = trace_words(trace) == trace_words(test.question.trace)
        hits.setdefault(test.question.kind, []).append((answer, whole))
    return {
        kind: {
            "answer": float(np.mean([answer for answer, _ in rows])),
            "trace": float(np.mean([whole for _, whole in rows])),
            "count": len(rows),
        }
        for kind, rows in hits.items()
    }


def evaluate_retrieval(
    embedder: SceneEmbedder, tests: Sequence[Test], pool: Sequence[Document], *, think: bool = True
) -> dict[str, float]:
    """Hit@1 by kind in the whole pool. `think` False takes the trace away from the questions; documents
    always think.
    """
    documents = embedder.embed([document.item for document in pool], role="document", think=True)
    questions = embedder.embed([test.item for test in tests], role="query", think=think)
    return judge_retrieval(tests, pool, questions, documents)


def judge_retrieval(
    tests: Sequence[Test],
    pool: Sequence[Document],
    questions: Sequence[Embedded],
    documents: Sequence[Embedded],
) -> dict[str, float]:
    """As `evaluate_retrieval`, for vectors that are there already."""
    best = first_documents(np.stack([one.vector for one in questions]), np.stack([one.vector for one in documents]))
    right = judge_documents(tests, pool, best)
    kinds = np.array([test.question.kind for test in tests])
    return {kind: float(right[kinds == kind].mean()) for kind in dict.fromkeys(kinds.tolist())}


def first_documents(questions: NDArray[np.float32], documents: NDArray[np.float32]) -> NDArray[np.int64]:
    """The row of the document that is nearest each question, int64 [n], of vectors [n, E] and [m, E]; the first of
    several.
    """
    return (questions @ documents.T).argmax(axis=1)


def judge_documents(tests: Sequence[Test], pool: Sequence[Document], best: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the document at `best` is each question's answer, bool [n]."""
    return np.array([pool[row].answer == test.question.answer for test, row in zip(tests, best, strict=True)], bool)
