"""Everything the demo found out, as one value: what the console prints and the page shows. No behaviour
beyond sums.
"""

from __future__ import annotations

from dataclasses import dataclass

from tte_runtime.demo.asking import Asked, Gallery
from tte_runtime.evaluation.compare import Comparison
from tte_runtime.evaluation.machine import Machine
from tte_runtime.types import Timings

STAGES = ("preprocess", "queue", "vision", "prefill", "decode", "readout")


@dataclass(frozen=True, eq=False)
class Report:
    """One run of the demo.

    Attributes:
        model: the name that was asked for. command: repeats this run. engine: what runs, in a line.
        dtype: of weights and activations. seed: of gallery and questions.
        gallery: the embedded documents. asked: the questions. comparison: with plain transformers.
        repetitions: timed rounds of the comparison. machine: what it ran on.
    """

    model: str
    command: str
    engine: str
    dtype: str
    seed: int
    gallery: Gallery
    asked: tuple[Asked, ...]
    comparison: Comparison
    repetitions: int
    machine: Machine

    @property
    def right_thinking(self) -> int:
        """Questions whose answer came first with thinking."""
        return sum(asked.thinking.right for asked in self.asked)

    @property
    def right_direct(self) -> int:
        """Questions whose answer came first without thinking."""
        return sum(asked.direct.right for asked in self.asked)

    @property
    def right_traces(self) -> int:
        """Questions whose trace ends with the teacher's answer."""
        return sum(asked.trace_right for asked in self.asked)


def spent(timings: Timings) -> list[tuple[str, float]]:
    """Milliseconds of a request's stages in their order; they add up to `timings.total`."""
    return [(stage, getattr(timings, stage)) for stage in STAGES]
