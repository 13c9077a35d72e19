"""Training data as JSONL: a query, its positive and its hard negatives a line, items as `inputs/items.py` has them.

    {"query": {"text": ..., "image": "pictures/1.png", "trace": ...}, "positive": {"text": ...}, "negatives": [...]}

An item is a text or a mapping; paths are relative to the file's folder. A "trace" is what was thought about the item.
What is wrong with a line is said when the file is read, before anything is trained. Opens no pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tte_runtime.errors import DatasetError, InputError, one_of
from tte_runtime.inputs.items import SURROGATE, Item, Page, Video, is_url, medium_of, parse_item
from tte_runtime.types import Role

NAME = "data.jsonl"  # in a folder
KEYS = ("query", "positive", "negatives", "id")
PATHS = ("image", "images", "video", "pdf")  # keys of an item that hold them


@dataclass(frozen=True, eq=False)
class Entry:
    """One item of a line.

    Attributes:
        item: as `Embedder.embed` takes it, a mapping, paths resolved.
        role: query or document.
        place: file, line and field, as errors name it.
    """

    item: dict[str, Any]
    role: Role
    place: str

    def parse(self) -> Item:
        """The item, anew: what was read of its media is forgotten with it."""
        return parse_item(self.item)

    @property
    def content(self) -> str:
        """What it is, its trace left out: entries of equal content are one document."""
        return json.dumps({key: value for key, value in self.item.items() if key != "trace"}, sort_keys=True)

    @property
    def traced(self) -> bool:
        """It has a trace."""
        return self.item.get("trace") is not None


@dataclass(frozen=True, eq=False)
class Example:
    """One line.

    Attributes:
        query, positive: `positive` is `None` where the line has none.
        negatives: documents that are not right, though nearly.
        raw: the line as it stands in the file.
    """

    query: Entry
    positive: Entry | None
    negatives: tuple[Entry, ...]
    raw: dict[str, Any]

    @property
    def entries(self) -> list[Entry]:
        """Every item, the query first."""
        return [self.query, *([self.positive] if self.positive else []), *self.negatives]


def data_file(path: Path) -> Path:
    """The file that is meant by a file or a folder; raises DatasetError where there is none."""
    file = path / NAME if path.is_dir() else path
    if not file.is_file():
        raise DatasetError(f"there is no training data at {file}. Give a JSONL file, or a folder with {NAME}.")
    return file


def read_examples(path: Path, *, positives: bool) -> list[Example]:
    """All lines of a file, or of a folder's `data.jsonl`.

    Args:
        path: the file or the folder.
        positives: every line must have a positive.

    Raises:
        DatasetError: a line is no example; the message has file, line, value, rule and remedy.
    """
    file = data_file(path)
    with file.open("rb") as lines:
        examples = [_example(file, n, line, positives) for n, line in enumerate(lines, start=1) if line.strip()]
    if not examples:
        raise DatasetError(f'{file} has no lines. Give one {{"query": ..., "positive": ...}} a line.')
    return examples


def _example(file: Path, number: int, line: bytes, positives: bool) -> Example:
    where = f"{file}, line {number}"
    try:
        raw = json.loads(line)
    except ValueError as error:
        raise DatasetError(f"{where} is no JSON: {error}. Write one object a line.") from error
    if not isinstance(raw, dict):
        raise DatasetError(f'{where} must be an object with "query" and "positive", got {type(raw).__name__}.')
    for key in raw:
        if key not in KEYS:
            raise DatasetError(f"{where}: " + one_of("key", key, KEYS))
    for key in ("query", "positive") if positives else ("query",):
        if raw.get(key) is None:
            raise DatasetError(f'{where} has no "{key}". Add it: a text, or an object such as {{"text": ...}}.')
    if SURROGATE.search(json.dumps(raw.get("id"), ensure_ascii=False)):
        raise DatasetError(f"{where}, id: {raw['id']!r} has half a surrogate pair, which is no character. Remove it.")
    negatives = raw.get("negatives") or []
    if not isinstance(negatives, list):
        raise DatasetError(f'{where}: "negatives" must be a list of items, got {type(negatives).__name__}.')

    def entry(item: Any, role: Role, field: str) -> Entry:
        return _entry(item, role, f"{where}, {field}", file.parent)

    query = entry(raw["query"], "query", "query")
    positive = None if raw.get("positive") is None else entry(raw["positive"], "document", "positive")
    wrong = tuple(entry(item, "document", f"negative {i}") for i, item in enumerate(negatives, start=1))
    for negative in wrong:
        if positive is not None and negative.content == positive.content:
            raise DatasetError(f"{negative.place} is the line's positive too, and would be right and wrong. Remove it.")
    return Example(query, positive, wrong, raw)


def _entry(item: Any, role: Role, place: str, folder: Path) -> Entry:
    if not isinstance(item, (str, dict)):
        raise DatasetError(f"{place} must be a text, a path or an object, got {type(item).__name__}.")
    resolved = with_paths(as_mapping(item), lambda path: str(folder / path))
    try:
        parsed = parse_item(resolved)
    except InputError as error:
        raise DatasetError(f"{place}: {error}") from error
    for source in _files(parsed):
        if not Path(source).expanduser().is_file():
            raise DatasetError(f"{place}: there is no file {source!r}. Paths are relative to {folder}.")
    return Entry(resolved, role, place)


def as_mapping(item: str | dict[str, Any]) -> dict[str, Any]:
    """An item in its long form; a string is a text, or a path or URL by its suffix."""
    if isinstance(item, dict):
        return item
    medium = medium_of(item)
    if medium is None:
        return {"text": item}
    if isinstance(medium, Page):
        return {"pdf": medium.source} if medium.number is None else {"pdf": medium.source, "page": medium.number}
    return {"video" if isinstance(medium, Video) else "image": medium.source}


def _files(item: Item) -> Iterator[str]:
    """The paths that an item names."""
    for medium in item.media:
        sources = medium.source if isinstance(medium.source, list) else [medium.source]
        yield from (str(source) for source in sources if _is_path(str(source)))


def _is_path(source: str) -> bool:
    return not is_url(source) and not source.startswith("data:")


def with_paths(item: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """An item in its long form with `change` applied to every path in it."""

    def changed(value: Any) -> Any:
        if isinstance(value, list):
            return [changed(one) for one in value]
        return change(value) if isinstance(value, str) and _is_path(value) else value

    return {key: changed(value) if key in PATHS else value for key, value in item.items()}
