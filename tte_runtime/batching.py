"""Many requests in order: a sliding window of work, outcomes in the order of the items, a progress bar on stderr.

Knows nothing of what a request is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from tqdm.auto import tqdm

Outcome = TypeVar("Outcome")


class Cancellable(Protocol):
    """Work that can be given up."""

    def cancel(self) -> None: ...


Work = TypeVar("Work", bound=Cancellable)


def in_order(
    items: Sequence[Any],
    submit: Callable[[Any], Work],
    finish: Callable[[Work], Outcome],
    *,
    window: int,
    progress: bool,
) -> Iterator[Outcome | Exception]:
    """Outcomes in the order of `items`, never more than `window` of them in work at once.

    Args:
        items: what to work on.
        submit: starts the work on an item and returns at once.
        finish: waits for the outcome.
        window: most items in work.
        progress: show a bar.

    Yields:
        each outcome, or the exception that `submit` or `finish` raised for it. Work that is still open when the
        iterator is left is cancelled.
    """
    ahead: deque[Work | Exception] = deque()
    todo = iter(items)

    def refill() -> None:
        while len(ahead) < window:
            try:
                item = next(todo)
            except StopIteration:
                return
            try:
                ahead.append(submit(item))
            except Exception as error:
                ahead.append(error)

    try:
        with tqdm(total=len(items), disable=not progress, unit="item", desc="embedding") as bar:
            refill()
            while ahead:
                first = ahead[0]
                try:
                    outcome = first if isinstance(first, Exception) else finish(first)
                except Exception as error:
                    outcome = error
                ahead.popleft()
                refill()
                bar.update()
                yield outcome
    finally:
        for work in ahead:
            if not isinstance(work, Exception):
                work.cancel()
