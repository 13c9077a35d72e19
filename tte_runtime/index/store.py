"""An index on disk: settings, a log of entries, and raw vectors. It is only ever appended to, so a kill loses nothing.

    INDEX/settings.json   whose vectors these are; written first, atomically; "complete" once a build has finished
    INDEX/entries.jsonl   a line a document: path, sha256, row, trace; or {"path", "removed": true}; the last line wins
    INDEX/vectors.f32     little-endian float32, E values a row

A block's vectors are on disk before its entries are, so every entry that can be read has its vector; what a kill left
half written is cut off when the next build opens the index. Knows files and vectors; knows no model and no pictures.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tte_runtime.errors import IndexFileError

FORMAT = 1
FLOAT = np.dtype("<f4")
FILES = {"settings.json", "settings.json.part", "entries.jsonl", "vectors.f32"}
FIELDS = {"format", "fingerprint", "model", "dim", "think", "max_trace_tokens", "truncate_dim", "complete"}


@dataclass(frozen=True)
class Settings:
    """Whose vectors an index holds. All but `model` and `complete` must agree for two vectors to be compared.

    Attributes:
        fingerprint: of the embedder.
        model: what it was loaded from; the default of a search.
        dim: E, after truncation.
        think: whether documents were given a trace; `None` as the recipe does.
        max_trace_tokens: limit of a document's trace; `None` for the recipe's.
        truncate_dim: the cut, or `None`.
        complete: a build has come to its end.
    """

    fingerprint: str
    model: str
    dim: int
    think: bool | None = None
    max_trace_tokens: int | None = None
    truncate_dim: int | None = None
    complete: bool = False


@dataclass(frozen=True)
class Entry:
    """A document of an index.

    Attributes:
        path: relative to the folder, with forward slashes.
        sha256: of its content.
        row: of its vector.
        trace: what was thought about it.
    """

    path: str
    sha256: str
    row: int
    trace: str


class IndexWriter:
    """Appends to an index. A context manager; one writer at a time.

    Args:
        path: the index; made if it is not there.
        settings: of this build.

    Raises:
        IndexFileError: the index is of another model or was built with other settings, is being written by somebody
            else, or is damaged.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        if path.is_file() or (path.is_dir() and {entry.name for entry in path.iterdir()} - FILES):
            raise IndexFileError(f"{path} exists and is no index. Give another --out.")
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.settings = replace(settings, complete=False)
        self._log: IO[bytes] = (path / "entries.jsonl").open("ab")
        try:
            self._take_over()
        except IndexFileError:
            self._log.close()
            raise

    def _take_over(self) -> None:
        """Lock the index, check that it is ours to write, and cut off what a kill may have left half written."""
        self._lock()
        if (self.path / "settings.json").is_file():
            refuse_changed(self.path, read_settings(self.path), self.settings)
        row_bytes = self.settings.dim * FLOAT.itemsize
        with (self.path / "vectors.f32").open("ab") as vectors:
            self._num_rows = vectors.seek(0, os.SEEK_END) // row_bytes
            vectors.truncate(self._num_rows * row_bytes)
        self._log.truncate((self.path / "entries.jsonl").read_bytes().rfind(b"\n") + 1)
        self.entries = read_entries(self.path, self.settings.dim)
        write_settings(self.path, self.settings)
        self._vectors: IO[bytes] = (self.path / "vectors.f32").open("ab")

    def add(self, documents: Sequence[tuple[str, str, str]], vectors: NDArray[np.float32]) -> None:
        """Append a block: (path, sha256, trace) of each document, and float32 [n, E]."""
        assert vectors.shape == (len(documents), self.settings.dim)
        self._vectors.write(np.ascontiguousarray(vectors, dtype=FLOAT).tobytes())
        self._vectors.flush()
        entries = [Entry(path, sha, self._num_rows + i, trace) for i, (path, sha, trace) in enumerate(documents)]
        self._append([asdict(entry) for entry in entries])
        self._num_rows += len(documents)
        self.entries |= {entry.path: entry for entry in entries}

    def remove(self, paths: Sequence[str]) -> None:
        """Take documents out; their vectors stay in the file, unused."""
        self._append([{"path": path, "removed": True} for path in paths])
        for path in paths:
            del self.entries[path]

    def finish(self) -> None:
        """The folder has been gone through: the index may be searched."""
        write_settings(self.path, replace(self.settings, complete=True))

    def __enter__(self) -> IndexWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._vectors.close()
        self._log.close()  # releases the lock

    def _lock(self) -> None:
        import fcntl

        try:
            fcntl.flock(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise IndexFileError(f"index {self.path} is being built by another process. Wait for it.") from error

    def _append(self, lines: list[dict[str, Any]]) -> None:
        self._log.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        self._log.flush()


def read_settings(path: Path) -> Settings:
    """An index's settings; raises IndexFileError where there is no index or one that we cannot read."""
    file = path / "settings.json"
    if not file.is_file():
        raise IndexFileError(
            f"{path} is no index: it has no settings.json. Build one: tte index build FOLDER --out {path}"
        )
    try:
        entry = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise IndexFileError(f"{file} is no JSON ({error}). Build the index again.") from error
    if not isinstance(entry, dict) or set(entry) != FIELDS or entry["format"] != FORMAT:
        raise IndexFileError(
            f"{file} is not of format {FORMAT}, the one that this version reads. Build the index again."
        )
    del entry["format"]
    return Settings(**entry)


def write_settings(path: Path, settings: Settings) -> None:
    """Replace an index's settings in one step."""
    part = path / "settings.json.part"
    part.write_text(json.dumps({"format": FORMAT} | asdict(settings), indent=2) + "\n", encoding="utf-8")
    os.replace(part, path / "settings.json")


def read_entries(path: Path, dim: int) -> dict[str, Entry]:
    """The documents that are in an index now, by path; raises IndexFileError where its files disagree."""
    entries: dict[str, Entry] = {}
    try:
        num_rows = (path / "vectors.f32").stat().st_size // (dim * FLOAT.itemsize)
        for line in (path / "entries.jsonl").read_bytes().splitlines():
            fields = json.loads(line)
            entries.pop(fields["path"], None)
            if "removed" not in fields:
                entries[fields["path"]] = Entry(**fields)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise IndexFileError(f"index {path} is damaged ({error}). Delete it and build it again.") from error
    lost = [entry.path for entry in entries.values() if not 0 <= entry.row < num_rows]
    if lost:
        raise IndexFileError(
            f"index {path} is damaged: it has no vector for {lost[0]!r}. Delete it and build it again."
        )
    return entries


def read_vectors(path: Path, dim: int) -> NDArray[np.float32]:
    """float32 [rows, E]: every row that was ever written whole."""
    stored = np.fromfile(path / "vectors.f32", dtype=FLOAT).astype(np.float32, copy=False)
    return stored[: len(stored) // dim * dim].reshape(-1, dim)


def refuse_other(settings: Settings, fingerprint: str, model: str) -> None:
    """Raises IndexFileError unless `fingerprint` is the index's own."""
    if settings.fingerprint != fingerprint:
        raise IndexFileError(
            f"the index was built by fingerprint {settings.fingerprint} (model {settings.model}), but {model} has "
            f"{fingerprint}: weights, recipe, image processor or precision differ, and their vectors cannot be "
            "compared. Use the model and precision it was built with, or build a new index."
        )


def refuse_changed(path: Path, old: Settings, new: Settings) -> None:
    """Raises IndexFileError where a build would mix vectors that were made in different ways."""
    refuse_other(old, new.fingerprint, new.model)
    for name in ("think", "max_trace_tokens", "truncate_dim", "dim"):
        if getattr(old, name) != getattr(new, name):
            raise IndexFileError(
                f"index {path} was built with {name}={getattr(old, name)}, not {getattr(new, name)}. Build with the "
                "same options, or give another --out."
            )
