"""A trace read as moves on the board, so that it can be drawn: which cells were named, in which order, and
the answer.

Lenient on purpose: what a model writes is shown as it is, right or wrong, and a trace of another form has
steps without cells. Knows the wording of the teacher's traces (`tte_runtime.scenes.questions`); knows nothing
of pixels or HTML.
"""

from __future__ import annotations

from dataclasses import dataclass

from tte_runtime.scenes.questions import answer_words, trace_words
from tte_runtime.scenes.world import CELLS, COUNTS

OPEN, CLOSE, SEPARATOR = "<think>", "</think>", ";"


@dataclass(frozen=True)
class Step:
    """One step of a trace.

    Attributes:
        words: as written, e.g. "one right b2".
        cell: the last cell that it names, if any.
        moves: whether it walks on from the step before (it begins with a count) rather than starting anew.
    """

    words: str
    cell: str | None
    moves: bool


@dataclass(frozen=True)
class Reading:
    """A trace taken apart: its steps, and the words after the thinking ("" when it never came there)."""

    steps: tuple[Step, ...]
    answer: str

    @property
    def answer_cell(self) -> str | None:
        """The cell that the answer is, where it is one."""
        return self.answer if self.answer in CELLS else None


def read_trace(trace: str) -> Reading:
    """The steps and the answer of a trace as text, in the order written."""
    words = trace_words(trace)
    end = words.index(CLOSE) if CLOSE in words else len(words)
    steps: list[list[str]] = [[]]
    for word in words[:end]:
        if word == SEPARATOR:
            steps.append([])
        elif word != OPEN:
            steps[-1].append(word)
    return Reading(tuple(_step(step) for step in steps if step), " ".join(answer_words(trace)))


def _step(words: list[str]) -> Step:
    cells = [word for word in words if word in CELLS]
    return Step(" ".join(words), cells[-1] if cells else None, words[0] in COUNTS.values())
