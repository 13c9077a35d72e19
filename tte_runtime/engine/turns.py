"""Whose step is next, where a corpus job runs beside somebody who waits: a share of the time, not of the steps.

A step of the job's prompts and pictures may take fifty times as long as a token that somebody waits for. Knows seconds
and priorities; knows no pages.
"""

from __future__ import annotations

from collections.abc import Iterable

from tte_runtime.engine.sequence import Sequence

# While somebody waits, the corpus job has this part of the time, and prompts of this part of a full step at once.
CORPUS_PART = 8


class Turns:
    """The time that those who wait are owed before the corpus job's next step.

    Args:
        shared: rows of a decode step cost next to nothing, as on a GPU, which reads the weights once for all of them:
            the job's rows ride along with everybody's, and only its prompts wait for their turn.
    """

    def __init__(self, *, shared: bool) -> None:
        self.shared = shared
        self._owed = 0.0
        self._job_step = 0.0  # seconds of the job's latest step

    def order(self, running: Iterable[Sequence]) -> tuple[bool, bool]:
        """Whether the job goes first, and second."""
        job_needs_a_step = any(s.is_corpus and (s.in_prefill or not self.shared) for s in running)
        first = job_needs_a_step and self._owed <= 0
        return first, not first

    def begin(self, corpus: bool) -> None:
        """A step was chosen, the job's or not. Until it has landed it is taken to last as long as the one before."""
        if corpus:
            self._owe(self._job_step)

    def end(self, corpus: bool, seconds: float) -> None:
        """A step has taken so long."""
        if corpus:
            self._job_step = seconds
            self._owe(seconds)
        else:
            self._owed -= seconds

    def _owe(self, seconds: float) -> None:
        self._owed = (CORPUS_PART - 1) * seconds
