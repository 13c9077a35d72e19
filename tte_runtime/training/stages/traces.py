"""`tte train traces`: a teacher writes what is thought about the items of the data, and the data is written with it.

The teacher is a checkpoint in an engine of ours or a chat endpoint; what it wrote is kept in a store as it comes, so an
interrupted run goes on, and one whose failures were mended asks for those alone. Knows reasoners and files; trains
nothing.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tte_runtime.batching import in_order
from tte_runtime.engine.loop import EngineLoop
from tte_runtime.errors import OptionError, ReasonerError
from tte_runtime.pending import Settled
from tte_runtime.reasoners.base import Ask, Reasoner, WriteListener, Writer
from tte_runtime.traces.store import TraceStore
from tte_runtime.traces.trace import Trace, TraceKey
from tte_runtime.training.examples import NAME, Entry, Example, read_examples, with_paths
from tte_runtime.training.loop import say
from tte_runtime.types import Role, Think

STORE, FAILURES = "traces.sqlite", "failures.jsonl"
WINDOW = 64  # traces in work at once; the endpoint's or the engine's own limit is below it


@dataclass(frozen=True)
class Written:
    """What came of a run.

    Attributes:
        folder: with `data.jsonl`.
        num_failed: items without the trace that they should have; `failures.jsonl` names them.
    """

    folder: Path
    num_failed: int


def write_traces(
    teacher: Reasoner,
    data: Path,
    out: Path,
    *,
    roles: Sequence[Role] | None = None,
    think: Think | None = None,
    options: dict[str, Any] | None = None,
) -> Written:
    """Write `data` with a trace in every item into `out`/data.jsonl.

    Args:
        teacher: a `LocalReasoner` or a `RemoteReasoner`.
        data: JSONL, or a folder with one. Items that have a trace keep it.
        roles: whose items get one; by default as the teacher's recipe says.
        think: limits and sampling; by default the teacher's own.
        options: of the engine.

    Raises:
        DatasetError: a line is wrong. OptionError: `out` is no folder of such a run. CheckpointError: the teacher
        cannot be loaded. What fails for one item is named and loses no other.
    """
    examples = read_examples(data, positives=False)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / STORE).is_file())):
        raise OptionError(f"--out {out} exists and is no folder of such a run. Give a new folder.")
    if (out / NAME).resolve() == (data / NAME if data.is_dir() else data).resolve():
        raise OptionError(f"--out {out} is where the data lies. Give a new folder.")
    loop = EngineLoop([])
    writer = teacher.load(None, options or {}, loop)  # first: a teacher that cannot be loaded leaves nothing behind
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TraceStore(out / STORE) as store:
            scribe = Scribe(writer, store, think or writer.think)
            entries = [e for e in _distinct(examples) if (e.role in roles if roles else writer.thinks(e.role))]
            outcomes = list(
                in_order(entries, scribe.submit, scribe.finish, window=WINDOW, progress=sys.stderr.isatty())
            )
    finally:
        writer.close()
        loop.close()
    return Written(out, _finish(out, examples, list(zip(entries, outcomes, strict=True))))


class Scribe:
    """Has traces written, and keeps them.

    Args:
        writer: the teacher. store: where they are kept. think: limits and sampling.
    """

    def __init__(self, writer: Writer, store: TraceStore, think: Think) -> None:
        self._writer = writer
        self._store = store
        self._think = think

    def submit(self, entry: Entry) -> Settled[tuple[TraceKey, Trace]]:
        """Ask for a trace, unless it is kept already."""
        ask = Ask(entry.parse(), entry.role, self._think, "corpus", time.perf_counter())
        draft, pending = self._writer.prepare(ask), Settled[tuple[TraceKey, Trace]]()
        if stored := self._store.get(draft.key):
            pending.succeed((draft.key, stored))
        else:
            listener = WriteListener(
                lambda written: pending.succeed((draft.key, written.trace)), pending.fail, lambda index, piece: None
            )
            pending.cancel_with(draft.write(listener))
        return pending

    def finish(self, pending: Settled[tuple[TraceKey, Trace]]) -> str:
        """The text of a trace, which is kept; raises what it failed with, ReasonerError where it was cut."""
        key, trace = pending.result()
        if trace.finish_reason == "forced":
            raise ReasonerError(
                f"the trace had not ended after the limit ({trace.forced_by}), so it teaches no end. Raise "
                "--max-trace-tokens."
            )
        self._store.put(key, trace)
        if not trace.text.strip():
            raise ReasonerError("the trace is empty. Check the teacher's prompt.")
        return trace.text


def _finish(out: Path, examples: Sequence[Example], outcomes: Sequence[tuple[Entry, str | Exception]]) -> int:
    """Write the data and what failed. Returns how many did."""
    written = {_key(entry): outcome for entry, outcome in outcomes if isinstance(outcome, str)}
    failed = [(entry, outcome) for entry, outcome in outcomes if isinstance(outcome, Exception)]
    for entry, error in failed:
        say(f"{entry.place}: {error}")
    lines = [json.dumps({"item": entry.place, "error": str(error)}) + "\n" for entry, error in failed]
    (out / FAILURES).write_text("".join(lines), encoding="utf-8")
    _write(out / NAME, examples, written)
    say(f"traces: {len(written)} of {len(outcomes)} items have one")
    return len(failed)


def _key(entry: Entry) -> tuple[str, str]:
    return entry.role, entry.content


def _distinct(examples: Sequence[Example]) -> list[Entry]:
    """Every item without a trace, once."""
    found: dict[tuple[str, str], Entry] = {}
    for example in examples:
        for entry in example.entries:
            if not entry.traced:
                found.setdefault(_key(entry), entry)
    return list(found.values())


def _write(file: Path, examples: Sequence[Example], traces: dict[tuple[str, str], str]) -> None:
    """The data with traces, its paths relative to where it now lies; the file appears whole."""

    def item(entry: Entry) -> dict[str, Any]:
        moved = with_paths(entry.item, lambda path: os.path.relpath(path, file.parent))
        text = None if entry.traced else traces.get(_key(entry))
        return moved if text is None else {**moved, "trace": text}

    partial = file.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as lines:
        for example in examples:
            line = {**example.raw, "query": item(example.query)}
            if example.positive is not None:
                line["positive"] = item(example.positive)
            if example.negatives:
                line["negatives"] = [item(entry) for entry in example.negatives]
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")
    partial.rename(file)
