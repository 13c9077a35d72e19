"""A store of traces in one SQLite file: a corpus is thought about once, and embedded again as often as need be.

Safe for several threads and processes: write-ahead logging, one transaction a trace, so what was stored before a crash
is there after it. Knows keys and traces; knows no model and no request.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, fields
from pathlib import Path
from types import TracebackType

from tte_runtime.errors import TraceStoreError
from tte_runtime.traces.trace import Trace, TraceKey

APPLICATION_ID = 0x54544554  # "TTET", in the header of every file of ours
VERSION = 1
BUSY_SECONDS = 60.0  # how long one process waits for another's write
PARTS = tuple(field.name for field in fields(TraceKey))

SCHEMA = f"""
    CREATE TABLE traces (
        {", ".join(f"{part} TEXT NOT NULL" for part in PARTS)},
        text TEXT NOT NULL, ids TEXT NOT NULL, finish_reason TEXT NOT NULL, forced_by TEXT,
        PRIMARY KEY ({", ".join(PARTS)})
    ) WITHOUT ROWID
"""
ROW = f"{', '.join(PARTS)}, text, ids, finish_reason, forced_by"


class TraceStore:
    """Traces by what decided them. A context manager; may be shared between threads.

    Args:
        path: the file; made where there is none.

    Raises:
        TraceStoreError: it cannot be opened, is broken, or is not ours.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self._lock = threading.Lock()
        if not self.path.absolute().parent.is_dir():
            raise TraceStoreError(f"trace store {str(path)!r}: there is no folder {self.path.parent}. Make it first.")
        with self._told():
            self._db = sqlite3.connect(self.path, BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            try:
                self._set_up()
            except BaseException:
                self._db.close()
                raise

    def _set_up(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")  # of two processes that open a new file, one makes the table
        ours = self._pragma("application_id"), self._pragma("user_version")
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if ours == (0, 0) and not tables:
            self._db.execute(SCHEMA)
            self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._db.execute(f"PRAGMA user_version = {VERSION}")
        elif ours[0] != APPLICATION_ID:
            raise TraceStoreError(f"{self.path} is a database of another program. Name another file.")
        elif ours[1] != VERSION:
            raise TraceStoreError(
                f"{self.path} has format {ours[1]}, and this version reads {VERSION}. Export it to JSONL with the "
                "version that wrote it, and import that."
            )
        self._db.execute("COMMIT")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")  # safe when a process dies; the last moments go with the power

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    def get(self, key: TraceKey) -> Trace | None:
        """The trace of a key, or `None`; raises TraceStoreError where the file cannot be read."""
        where = " AND ".join(f"{part} = ?" for part in PARTS)
        with self._lock, self._told():
            row = self._db.execute(f"SELECT {ROW} FROM traces WHERE {where}", astuple(key)).fetchone()
        return None if row is None else _entry(row)[1]

    def put(self, key: TraceKey, trace: Trace) -> None:
        """Keep a trace, in the place of an older one; raises TraceStoreError where the file cannot be written."""
        self.put_all([(key, trace)])

    def put_all(self, entries: Iterable[tuple[TraceKey, Trace]]) -> int:
        """Keep many traces, all or none. Returns how many."""
        rows = [
            (*astuple(key), trace.text, json.dumps(trace.ids), trace.finish_reason, trace.forced_by)
            for key, trace in entries
        ]
        marks = ", ".join("?" * (len(PARTS) + 4))
        with self._lock, self._told():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany(f"INSERT OR REPLACE INTO traces ({ROW}) VALUES ({marks})", rows)
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        return len(rows)

    def __len__(self) -> int:
        """How many traces there are."""
        with self._lock, self._told():
            return int(self._db.execute("SELECT count(*) FROM traces").fetchone()[0])

    def items(self, block: int = 256) -> Iterator[tuple[TraceKey, Trace]]:
        """Every trace with its key, in the order of the keys, read `block` at a time: writers are not held up."""
        after: tuple[str, ...] = ("",) * len(PARTS)
        marks = ", ".join("?" * len(PARTS))
        query = f"SELECT {ROW} FROM traces WHERE ({', '.join(PARTS)}) > ({marks}) ORDER BY {', '.join(PARTS)} LIMIT ?"
        while True:
            with self._lock, self._told():
                rows = self._db.execute(query, (*after, block)).fetchall()
            yield from map(_entry, rows)
            if len(rows) < block:
                return
            after = rows[-1][: len(PARTS)]

    def close(self) -> None:
        """Close the file. May be called twice."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> TraceStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's errors as ours."""
        try:
            yield
        except sqlite3.ProgrammingError as error:
            raise TraceStoreError(f"trace store {self.path} is closed: {error}") from error
        except sqlite3.OperationalError as error:  # locked, full, read-only: the file itself is sound
            raise TraceStoreError(
                f"trace store {self.path} cannot be used: {error}. Check its disk and rights."
            ) from error
        except sqlite3.DatabaseError as error:
            raise TraceStoreError(
                f"trace store {self.path} is broken or no database: {error}. Name a new file and import an export."
            ) from error


def _entry(row: tuple[str, ...]) -> tuple[TraceKey, Trace]:
    text, ids, finish_reason, forced_by = row[len(PARTS) :]
    return TraceKey(*row[: len(PARTS)]), Trace(text, tuple(json.loads(ids)), finish_reason, forced_by)  # type: ignore[arg-type]
