"""The requests in work, and how they leave: cancelled, failed or answered. Knows no step and no tensor."""

from __future__ import annotations

from collections.abc import Iterator

from tte_runtime.engine.forks import Family
from tte_runtime.engine.scheduler import Scheduler
from tte_runtime.engine.sequence import Sequence


class Live:
    """Families of sequences by number, from `add` until nobody waits for anything of theirs.

    Args:
        scheduler: holds pages and places of the sequences; gets them back.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.at_work: list[Sequence] = []  # whom the work of this moment is about; it fails if the work does
        self._scheduler = scheduler
        self._families: dict[int, Family] = {}

    def __len__(self) -> int:
        return len(self._families)

    def __iter__(self) -> Iterator[Sequence]:
        for family in self._families.values():
            yield from family

    def add(self, family: Family) -> int:
        """Take a request in. Returns its number."""
        number = family.first.order
        self._families[number] = family
        self._scheduler.add(family.first)
        return number

    def family_of(self, sequence: Sequence) -> Family:
        """The family of a sequence in work."""
        return self._families[sequence.order]

    def drop(self, number: int) -> None:
        """Let a request go and free what it holds; one that is done already is no error."""
        for sequence in self._families.pop(number, ()):
            sequence.gone = True
            self._scheduler.remove(sequence)

    def fail(self, sequence: Sequence, error: Exception) -> None:
        """Let the whole request of a sequence go, and tell its listener why."""
        family = self._families.get(sequence.order)
        self.drop(sequence.order)
        if family is not None:
            family.listener.on_error(error)

    def fail_at_work(self, error: Exception) -> None:
        """Fail those whom the work was about.

        What failed before it was about anybody in particular was about everybody; left alone it would fail again, and
        for ever.
        """
        for sequence in self.at_work or list(self):
            self.fail(sequence, error)
