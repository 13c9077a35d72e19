"""Controls: traces that are changed on purpose, to find out what a vector owes to thinking.

All start from the teacher's trace, which is right, so that nothing but the change differs between two rows, and are
given to the model with the question; it writes nothing. Words are the world's: a word is replaced by another of its
class, a picture's name by a picture's name, a cell by a cell. Knows questions and words; no model, no tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tte_runtime.errors import OptionError, one_of
from tte_runtime.evaluation.scenes import STREAM, Test
from tte_runtime.scenes import pictures
from tte_runtime.scenes.questions import answer_words, trace_words
from tte_runtime.scenes.world import CELLS, COUNTS, DIRECTIONS

TEACHER = "teacher"
CONTROLS = {
    TEACHER: "the teacher's trace, nothing changed",
    "no_picture": "the same without the picture",
    "other_trace": "the trace of another question of its kind, with another answer",
    "filler": "filler of the same length",
    "wrong_step": "one word of the steps replaced by another of its class",
    "wrong_answer": "one word of the answer replaced by another of its class",
}
FILLER = ";"
FRAME = ("<think>", "</think>", FILLER)
CLASSES = (
    tuple(pictures.names()),
    CELLS,
    tuple(COUNTS.values()),
    tuple(DIRECTIONS),
    tuple(sorted(set(pictures.categories().values()))),
    ("scene", "picture", "text"),
)


def control_items(control: str, tests: Sequence[Test], seed: int = 0) -> list[dict[str, Any]]:
    """What is asked under a control, a mapping with "trace" for each question, in order.

    Raises:
        OptionError: the control is unknown, or a kind has too few questions to exchange traces.
    """
    if control not in CONTROLS:
        raise OptionError(one_of("control", control, tuple(CONTROLS)))
    others = _partners(tests, seed) if control == "other_trace" else range(len(tests))
    items = []
    for index, (test, other) in enumerate(zip(tests, others, strict=True)):
        rng = np.random.default_rng([STREAM, seed, 98, index])
        trace = tests[other].question.trace
        if control == "filler":
            trace = filler(trace)
        elif control in ("wrong_step", "wrong_answer"):
            trace = corrupted(trace, rng, in_answer=control == "wrong_answer")
        item = {"text": test.question.text} if control == "no_picture" else test.item
        items.append({**item, "trace": trace})
    return items


def filler(trace: str) -> str:
    """The trace with every word but its two markers replaced by a word that says nothing, as many words as before."""
    return " ".join(word if word in FRAME else FILLER for word in trace_words(trace))


def corrupted(trace: str, rng: np.random.Generator, *, in_answer: bool) -> str:
    """The trace with one word, drawn at random, replaced by another of its class, before or behind `</think>`."""
    words = trace_words(trace)
    begins = len(words) - len(answer_words(trace))
    places = [i for i in (range(begins, len(words)) if in_answer else range(begins)) if words[i] not in FRAME]
    place = places[int(rng.integers(len(places)))]
    (alike,) = (words_of for words_of in CLASSES if words[place] in words_of)
    others = [word for word in alike if word != words[place]]
    words[place] = others[int(rng.integers(len(others)))]
    return " ".join(words)


def _partners(tests: Sequence[Test], seed: int) -> list[int]:
    """For every question another of its kind that has another answer, drawn at random."""
    rng = np.random.default_rng([STREAM, seed, 97])
    alike: dict[str, list[int]] = {}
    for index, test in enumerate(tests):
        alike.setdefault(test.question.kind, []).append(index)
    partners = []
    for test in tests:
        kind, answer = test.question.kind, test.question.answer
        fit = [index for index in alike[kind] if tests[index].question.answer != answer]
        if not fit:
            raise OptionError(f"the {kind!r} questions all have one answer: no trace to exchange. Ask more per kind.")
        partners.append(fit[int(rng.integers(len(fit)))])
    return partners
