"""Traces as JSONL: one object a line, with the five hashes of its key. Knows the store and lines; knows no model."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, get_args

from tte_runtime.errors import TraceError
from tte_runtime.traces.store import PARTS, TraceStore
from tte_runtime.traces.trace import Trace, TraceKey
from tte_runtime.types import ForcedBy

FIELDS = (*PARTS, "text", "ids", "finish_reason", "forced_by")
BLOCK = 1000  # lines a transaction


def export_lines(store: TraceStore) -> Iterator[str]:
    """Every trace of a store as a line of JSON, in the order of the keys."""
    for key, trace in store.items():
        yield json.dumps(asdict(key) | asdict(trace), ensure_ascii=False) + "\n"


def import_lines(store: TraceStore, lines: Iterable[bytes]) -> Iterator[int]:
    """Put lines of an export into a store; traces it has already are replaced.

    Yields:
        how many traces were taken, block by block. A block that is taken stays, whatever comes after it.

    Raises:
        TraceError: a line is none of an export; the message has its number.
        TraceStoreError: the store cannot be written.
    """
    numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    while block := list(itertools.islice(numbered, BLOCK)):
        yield store.put_all([_entry(number, line) for number, line in block])


def _entry(number: int, line: bytes) -> tuple[TraceKey, Trace]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise TraceError(f"line {number} is no JSON: {error}. Give a file that `tte traces export` wrote.") from error
    if not isinstance(entry, dict) or set(entry) != set(FIELDS):
        raise TraceError(f"line {number} must be an object with exactly {', '.join(FIELDS)}.")
    problem = _problem(entry)
    if problem:
        raise TraceError(f"line {number}: {problem}.")
    key = TraceKey(**{part: entry[part] for part in PARTS})
    return key, Trace(entry["text"], tuple(entry["ids"]), entry["finish_reason"], entry["forced_by"])


def _problem(entry: dict[str, Any]) -> str | None:
    """What is wrong with an entry's values; `None` if nothing is."""
    for name in (*PARTS, "text"):
        if not isinstance(entry[name], str):
            return f"{name} must be a string, got {entry[name]!r}"
    ids = entry["ids"]
    if not isinstance(ids, list) or not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
        return "ids must be a list of token ids"
    if entry["finish_reason"] not in ("stop", "forced"):
        return f"finish_reason must be stop or forced, got {entry['finish_reason']!r}"
    if entry["forced_by"] not in (None, *get_args(ForcedBy)):
        return f"forced_by must be null, {' or '.join(get_args(ForcedBy))}, got {entry['forced_by']!r}"
    return None
