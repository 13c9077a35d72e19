"""Annotations on disk: which files of a dataset's folder belong to a split, and their rows. JSON Lines, JSON, Parquet.

A folder is what a dataset repository of the hub holds: its README's `configs` say which files there are, and where they
do not, files are found by name, as `datasets` does. Knows files and rows; knows no benchmark.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tte_runtime.errors import DatasetError, MissingExtraError
from tte_runtime.inputs.items import SURROGATE

SUFFIXES = (".jsonl", ".json", ".parquet")
BATCH = 256  # rows of a Parquet file in memory at once: some hold pictures


@dataclass(frozen=True)
class Row:
    """A row of an annotation file.

    Attributes:
        values: by column.
        where: file and row, for errors.
    """

    values: dict[str, Any]
    where: str

    def get(self, column: str) -> Any:
        """A value; raises DatasetError where there is no such column."""
        if column not in self.values:
            raise DatasetError(
                f"{self.where} has no column {column!r}, only {', '.join(map(repr, self.values))}. It must be laid out "
                "as VLM2Vec's evaluation reads it: see docs/evaluation.md."
            )
        return self.values[column]

    def text(self, column: str, default: str | None = None) -> str:
        """A value as a text. Raises DatasetError where it is missing without a default, or is no text and no number."""
        if default is not None and self.values.get(column) is None:
            return default
        value = self.get(column)
        if not isinstance(value, (str, int, float)) or isinstance(value, bool):
            raise DatasetError(f"{self.where}: {column!r} must be a text, got {value!r}.")
        self._check_characters(column, str(value))
        return str(value)

    def texts(self, column: str) -> list[str]:
        """A value as a list of texts, at least one. Raises DatasetError where it is none."""
        value = self.get(column)
        if not isinstance(value, list) or not value or not all(isinstance(entry, str) for entry in value):
            raise DatasetError(f"{self.where}: {column!r} must be a list of texts with at least one, got {value!r}.")
        for one in value:
            self._check_characters(column, one)
        return value

    def _check_characters(self, column: str, text: str) -> None:
        if SURROGATE.search(text):
            raise DatasetError(
                f"{self.where}: {column!r} has half a surrogate pair, which is no character, in {text!r}. Remove it."
            )

    def number(self, column: str) -> float:
        """A value as a number; raises DatasetError where it is none."""
        try:
            return float(self.get(column))
        except (TypeError, ValueError) as error:
            raise DatasetError(f"{self.where}: {column!r} must be a number, got {self.get(column)!r}.") from error

    def choice(self, column: str, options: Sequence[str]) -> str:
        """The option whose index (from 0) a value is; raises DatasetError where there is no such option."""
        index = self.number(column)
        if not index.is_integer() or not 0 <= index < len(options):
            raise DatasetError(f"{self.where}: {column!r} must be the index of one of {len(options)}, got {index:g}.")
        return options[int(index)]


def find_files(folder: Path, subset: str | None, split: str) -> list[Path]:
    """The files of a split, in order; none where the folder, the subset or the split is not there.

    Args:
        folder: of the dataset.
        subset: a configuration of it, or `None` for the only one.
        split: such as "test".
    """
    patterns = _patterns(folder, subset, split)
    if patterns is not None:
        found = {path for pattern in patterns for path in folder.glob(pattern)}
        return sorted(path for path in found if path.suffix in SUFFIXES)
    of_split = re.compile(rf"(^|[-._/]){re.escape(split)}([-._/]|$)")
    for place in [folder / subset, folder / "data" / subset] if subset else [folder, folder / "data"]:
        files = sorted(path for path in place.glob("*") if path.suffix in SUFFIXES)
        named = [path for path in files if of_split.search(path.stem)]
        if named or (files and split == "train"):  # a file that names no split is a training file
            return named or files
    return []


def read_rows(files: Sequence[Path], limit: int | None = None, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of files, at most `limit` of them; of Parquet files, only `columns`.

    Raises:
        DatasetError: a file or a line cannot be read. MissingExtraError: a Parquet file, without pyarrow.
    """
    rows = (row for file in files for row in _rows(file, columns))
    return itertools.islice(rows, limit)


def _patterns(folder: Path, subset: str | None, split: str) -> list[str] | None:
    """What the README says of a split; `None` where it says nothing, empty where it has no such split."""
    readme = folder / "README.md"
    if not readme.is_file():
        return None
    from huggingface_hub import metadata_load

    try:
        configs = (metadata_load(readme) or {}).get("configs")
    except Exception as error:  # whatever its YAML parser raises
        raise DatasetError(f"the head of {readme} is no YAML ({error}). Download it again, or delete it.") from error
    if not configs:
        return None
    if not isinstance(configs, list) or not all(isinstance(config, dict) for config in configs):
        raise DatasetError(f"'configs' in {readme} must be a list of configurations. Download it again, or delete it.")
    name = subset or ("default" if any(c.get("config_name") == "default" for c in configs) else None)
    chosen = [config for config in configs if config.get("config_name") == name or name is None]
    if not chosen:
        return []
    data_files = chosen[0].get("data_files") or []
    if isinstance(data_files, str):
        data_files = [data_files]
    entries = [entry if isinstance(entry, dict) else {"split": "train", "path": entry} for entry in data_files]
    paths = [entry.get("path", []) for entry in entries if entry.get("split") == split]
    return [pattern for path in paths for pattern in ([path] if isinstance(path, str) else path)]


def _rows(file: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    if file.suffix == ".parquet":
        yield from _parquet_rows(file, columns)
        return
    try:
        text = file.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark of its byte order
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file} cannot be read: {error}. Download it again.") from error
    if file.suffix == ".json" and text.lstrip().startswith("["):
        yield from (_row(entry, f"{file}, entry {number}") for number, entry in enumerate(_json(text, file), start=1))
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{file}, line {number}"
            yield _row(_json(line, where), where)


def _json(text: str, where: object) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DatasetError(f"{where} is no JSON ({error}). Download the file again.") from error


def _row(entry: Any, where: str) -> Row:
    if not isinstance(entry, dict):
        raise DatasetError(f"{where} must be an object with a value for every column, got {type(entry).__name__}.")
    return Row(entry, where)


def _parquet_rows(file: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError(
            f"{file} needs pyarrow, which is not installed. Run: pip install 'tte-runtime[mmeb]'"
        ) from error
    try:
        with parquet.ParquetFile(file) as opened:
            numbers = itertools.count(1)
            for batch in opened.iter_batches(batch_size=BATCH, columns=columns):
                yield from (Row(entry, f"{file}, row {next(numbers)}") for entry in batch.to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise DatasetError(f"{file} cannot be read as Parquet: {error}. Download it again.") from error
