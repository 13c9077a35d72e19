"""What embedder and head have in common: batches of examples, and InfoNCE over vectors that something makes of them.

Knows examples and vectors; knows neither bases nor files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from tte_runtime.training.examples import Entry, Example, read_examples
from tte_runtime.training.loop import fit, say
from tte_runtime.training.objectives import Contrast
from tte_runtime.training.stages.run import Options, columns_of, distinct_batches, num_negatives
from tte_runtime.training.vectors import Vectors


@dataclass(frozen=True, eq=False)
class Lessons:
    """The batches of a run.

    Attributes:
        examples: all there are.
        batches: without false negatives, in order.
        negatives: hard ones a query.
    """

    examples: list[Example]
    batches: Sequence[list[Example]]
    negatives: int

    @property
    def entries(self) -> list[Entry]:
        """Every item that is embedded."""
        return [entry for example in self.examples for entry in example.entries[: 2 + self.negatives]]

    @classmethod
    def read(cls, data: Path, negatives: int | None, options: Options) -> Lessons:
        """The lessons that are in `data`; raises DatasetError where a line is wrong, or there are too few."""
        examples = read_examples(data, positives=True)
        options.steps(len(examples))  # refused here if too many: all batches are put together beforehand
        hard = num_negatives(examples, negatives)
        batches = distinct_batches(examples, hard, options.batch_size, options.epochs, options.seed)
        return cls(examples, batches, hard)

    def teach(self, name: str, trained: nn.Module, vectors: Vectors, work: Path, options: Options) -> None:
        """Train `trained`, which `vectors` makes use of, in place; in `work` lies what an interrupted run needs."""
        say(f"{name}: {len(self.batches)} steps of {options.batch_size} queries, {self.negatives} hard negatives each")
        say(f"{name}: {vectors.traced(self.entries)}")
        fit(
            name,
            Contrast(trained, vectors.embed, options.mini_batch),
            lambda index: self.batches[index],
            lambda items: {"columns": columns_of(items[0], self.negatives)},
            work,
            batch_size=1,
            device=vectors.model.device.type,
            **options.fitting(len(self.batches)),
        )
