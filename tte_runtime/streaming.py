"""From the pieces of a trace, as they come, to what a caller of `stream` sees. Knows no model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from tte_runtime.types import TraceToken


def trace_tokens(
    pieces: Iterable[tuple[int, int | str]], text_of: Callable[[Sequence[int]], str]
) -> Iterator[TraceToken]:
    """A trace token by token.

    Args:
        pieces: (index, token id), or (index, text) where no ids are known.
        text_of: the text of all ids so far.
    """
    ids: list[int] = []
    shown = ""
    for index, piece in pieces:
        if isinstance(piece, str):
            yield TraceToken(index, None, piece)
            continue
        ids.append(piece)
        text = text_of(ids)
        if text.endswith("\ufffd"):  # half of a character: wait for the rest of its bytes
            text = shown
        yield TraceToken(index, piece, text[len(shown) :])
        shown = text
