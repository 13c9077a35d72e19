"""An append-only JSONL file of results that a later run continues.

A row is one finished piece of work of one stage, with the machine and the versions it was made by. Rows of
another machine, commit or version never count as done. This file does not know what is measured.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["Results", "Row", "read_rows"]

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """All rows of a file, of whatever machine, in order; the rest of a last line that was cut off is left out.

    Raises:
        ValueError: another line is not JSON.
    """
    rows = []
    whole, _, _ = path.read_text().rpartition("\n")
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: line {number} is not JSON. Move the file away to start anew.") from error
    return rows


class Results:
    """The rows of `path` that `machine` made, and the way to add more.

    Args:
        path: a .jsonl file; made with its folder if missing.
        machine: what identifies device, versions and commit; stored in each row and compared as a whole.

    Raises:
        ValueError: a line that is not JSON, other than a last one that was cut off while it was written.
    """

    def __init__(self, path: Path, machine: Mapping[str, Any]) -> None:
        self.path = path
        self.machine = dict(machine)
        self._rows: dict[tuple[str, str], Row] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            return
        for row in read_rows(path):
            if row["machine"] == self.machine:
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
