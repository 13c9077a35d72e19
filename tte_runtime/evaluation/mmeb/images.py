"""The image datasets: one row a query, with its own list of candidates, of which the first is right.

Columns as in VLM2Vec's image_*_dataset.py: qry_inst, qry_text, qry_img_path (absent where queries are texts), tgt_text,
and, where candidates are pictures, tgt_img_path and tgt_inst. Instructions stand in the rows themselves. The white
space that VLM2Vec puts around them for its own models is left out.
"""

from __future__ import annotations

from pathlib import Path

from tte_runtime.errors import DatasetError
from tte_runtime.evaluation.mmeb.catalogue import Dataset
from tte_runtime.evaluation.mmeb.files import Row
from tte_runtime.evaluation.mmeb.tasks import Query, Request, Task, picture, read_annotations

PLACEHOLDER = "<|image_1|>"  # of Phi-3-V, in the rows' instructions; where a picture goes is the recipe's to say


def image_task(folder: Path, dataset: Dataset, limit: int | None) -> Task:
    """Read one; raises DatasetError."""
    queries, candidates = [], dict[str, Request]()
    for row in read_annotations(folder, dataset, limit):
        path = row.text("qry_img_path", "")
        request = Request(
            row.text("qry_text").strip(),
            _instruction(row, "qry_inst"),
            picture(folder / dataset.root / path) if path else {},
        )
        own = _candidates(row, folder / dataset.root, with_captions=bool(path))
        for name, candidate in own.items():
            candidates.setdefault(name, candidate)
        names = tuple(own)
        queries.append(Query(request, {names[0]: 1.0}, names))
    return Task(dataset, queries, candidates)


def _candidates(row: Row, root: Path, *, with_captions: bool) -> dict[str, Request]:
    """A row's candidates by name, the right one first.

    A picture's name is its path; with its caption where queries have pictures, because in RefCOCO-Matching several
    objects of one picture are candidates.
    """
    texts = row.texts("tgt_text")
    paths = row.values.get("tgt_img_path") or []
    if not any(paths):
        return {text: Request(text) for text in texts}
    if len(paths) != len(texts):
        raise DatasetError(f"{row.where}: {len(texts)} tgt_text and {len(paths)} tgt_img_path; there must be as many.")
    instruction = _instruction(row, "tgt_inst")
    found: dict[str, Request] = {}
    for path, text in zip(paths, texts, strict=True):
        name = path + ":" + text.strip('"') if with_captions else path
        found.setdefault(name, Request(text.strip(), instruction, picture(root / path)))
    return found


def _instruction(row: Row, column: str) -> str:
    return row.text(column, "").replace(PLACEHOLDER, "").strip()
