"""An append-only JSONL file of results that a later run continues.

A row is one finished piece of work of one stage, with the machine and the versions it was made by. Rows of
another machine, commit or version never count as done. This file does not know what is measured.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Results", "ResultsError", "Row", "last_run", "read_rows"]

Row = dict[str, Any]


class ResultsError(ValueError):
    """A file is no file of results; says which line, and the remedy."""


def read_rows(path: Path) -> list[Row]:
    """All rows of a file, of whatever machine, in order; the rest of a last line that was cut off is left out.

    Raises:
        ResultsError: another line is not a JSON object, or the file is no text.
    """
    rows = []
    try:
        whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    except UnicodeDecodeError as error:
        raise ResultsError(f"{path} is no text, so no file of results. Name another file.") from error
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ResultsError(f"{path}: line {number} is not JSON. Name another file, or move it away.") from error
        if not isinstance(row, dict):
            raise ResultsError(f"{path}: line {number} is no JSON object. Name another file, or move it away.")
        rows.append(row)
    return rows


def last_run(rows: Sequence[Row], stage: str) -> list[Row]:
    """Of a stage the rows of its last machine, versions and commit, the latest of each piece of work.

    Figures of two commits are no table and no curve; who shows rows under one commit's name takes them from here.
    """
    own = [row for row in rows if row.get("stage") == stage]
    return list({row["key"]: row for row in own if row["machine"] == own[-1]["machine"]}.values())


class Results:
    """The rows of `path` that `machine` made, and the way to add more.

    Args:
        path: a .jsonl file; made with its folder if missing.
        machine: what identifies device, versions and commit; stored in each row and compared as a whole.

    Raises:
        ResultsError: a line that is no JSON object, other than a last one that was cut off while it was written.
    """

    def __init__(self, path: Path, machine: Mapping[str, Any]) -> None:
        self.path = path
        self.machine = dict(machine)
        self._rows: dict[tuple[str, str], Row] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            return
        for row in read_rows(path):
            if row.get("machine") == self.machine:
                self._rows[row["stage"], row["key"]] = row
        whole, end, cut_off = path.read_text().rpartition("\n")
        if cut_off:  # a run was killed in the middle of a line; that work is done again
            path.write_text(whole + end)

    def get(self, stage: str, key: str) -> Row | None:
        """The latest row of that piece of work, or None."""
        return self._rows.get((stage, key))

    def stage(self, stage: str) -> dict[str, Row]:
        """Rows of one stage, by key, in the order in which they were first added."""
        return {key: row for (name, key), row in self._rows.items() if name == stage}

    def add(self, stage: str, key: str, values: Mapping[str, Any]) -> Row:
        """Appends a row and forces it to disk, so that a killed run loses nothing that was finished."""
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        row: Row = {"stage": stage, "key": key, "date": date, **values, "machine": self.machine}
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._rows[stage, key] = row
        return row
