"""Tables in Markdown, as they go to stdout. Knows strings only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["markdown"]


def markdown(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; columns from the second on are set to the right."""
    marks = ["---", *("---:" for _ in headers[1:])]
    lines = [headers, marks, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
