"""From the pieces of a trace, as they come, to what a caller of `stream` sees. Knows no model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tte_runtime.types import Snapshot, TraceToken

Piece = int | str | NDArray[np.float32]


def trace_events(
    pieces: Iterable[tuple[int, Piece]], text_of: Callable[[Sequence[int]], str]
) -> Iterator[TraceToken | Snapshot]:
    """A trace token by token, and snapshots between.

    Args:
        pieces: (index, token id), (index, text) where no ids are known, or (tokens so far, vector) of a snapshot.
        text_of: the text of all ids so far.
    """
    ids: list[int] = []
    shown = ""
    for index, piece in pieces:
        if isinstance(piece, np.ndarray):
            yield Snapshot(index, piece)
            continue
        if isinstance(piece, str):
            yield TraceToken(index, None, piece)
            continue
        ids.append(piece)
        text = text_of(ids)
        if text.endswith("\ufffd"):  # half of a character: wait for the rest of its bytes
            text = shown
        yield TraceToken(index, piece, text[len(shown) :])
        shown = text
