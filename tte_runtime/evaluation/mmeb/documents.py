"""The visual documents: queries, a corpus of pages as pictures, and qrels that say how relevant each page is.

Files, columns, prompts and names of pictures as in VLM2Vec's vidore_dataset.py and visrag_dataset.py, relevance as in
its `load_qrels_mapping`. A picture that is not there as a file is taken out of the corpus, as VLM2Vec does when it runs
for the first time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from tte_runtime.errors import DatasetError
from tte_runtime.evaluation.mmeb.catalogue import Dataset
from tte_runtime.evaluation.mmeb.files import read_rows
from tte_runtime.evaluation.mmeb.tasks import Query, Request, Task, annotation_files, picture

FIND = "Find a document image that matches the given query:"
UNDERSTAND = "Understand the content of the provided document image."


def document_task(folder: Path, dataset: Dataset, limit: int | None) -> Task:
    """Read one; raises DatasetError."""
    relevance = _relevance(folder, dataset)
    queries = []
    for row in read_rows(annotation_files(folder, dataset, "queries"), limit):
        labels = relevance.get(row.text("query-id"))
        if not labels:
            raise DatasetError(f"{row.where}: query {row.text('query-id')!r} has no relevant page in the qrels.")
        queries.append(Query(Request(row.text("query"), FIND), labels))
    if not queries:
        raise DatasetError(f"{dataset.name} has no queries. Download {dataset.repo} again.")
    corpus = annotation_files(folder, dataset, "corpus")
    names = [row.text("corpus-id") for row in read_rows(corpus, columns=["corpus-id"])]
    # The order of VLM2Vec's dictionary: first what the queries ask for, then the rest of the corpus.
    ordered = dict.fromkeys([*(name for query in queries for name in query.labels), *names])
    paths = {name: folder / dataset.root / _file_name(dataset, name) for name in ordered}
    _unpack(corpus, {name: path for name, path in paths.items() if not path.is_file()})
    return Task(dataset, queries, {name: Request("", UNDERSTAND, picture(path)) for name, path in paths.items()})


def _relevance(folder: Path, dataset: Dataset) -> dict[str, dict[str, float]]:
    """How relevant which pages are, by query; of two statements about one page the higher counts."""
    found: dict[str, dict[str, float]] = {}
    for row in read_rows(annotation_files(folder, dataset, "qrels")):
        score = row.number("score")
        if score > 0:
            labels = found.setdefault(row.text("query-id"), {})
            name = row.text("corpus-id")
            labels[name] = max(score, labels.get(name, 0.0))
    return found


def _file_name(dataset: Dataset, name: str) -> str:
    if dataset.parser == "vidore":
        return f"{name}.png"
    stem, suffix = os.path.splitext(name)
    return f"{stem[:50]}_{hashlib.md5(name.encode()).hexdigest()[:8]}{suffix}"


def _unpack(corpus: list[Path], missing: Mapping[str, Path]) -> None:
    """Write pictures that a Parquet corpus holds. What it does not hold stays missing, and fails as an item."""
    if not missing or any(file.suffix != ".parquet" for file in corpus):
        return
    for row in read_rows(corpus, columns=["corpus-id", "image"]):
        image = row.values.get("image")
        path = missing.get(row.text("corpus-id"))
        if path is None or not isinstance(image, dict) or not image.get("bytes"):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_bytes(image["bytes"])
        os.replace(part, path)
