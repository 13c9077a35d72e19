"""A run over datasets: read, embed, score, write, one after the other. What is done is kept, whatever happens next.

OUT/<modality>/<dataset>_qry, _tgt     vectors and traces (`tte_runtime.index.store`)
OUT/<modality>/<dataset>_score.json    its metrics, in VLM2Vec's form; report_score_v2.py reads them
OUT/<modality>/<dataset>_failed.json   what failed, where something did
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tte_runtime.errors import DatasetError, MissingExtraError
from tte_runtime.evaluation.mmeb.catalogue import Dataset
from tte_runtime.evaluation.mmeb.load import read_task
from tte_runtime.evaluation.mmeb.scoring import Score, score_task
from tte_runtime.evaluation.mmeb.tasks import Task
from tte_runtime.evaluation.mmeb.vectors import How, embed_requests

if TYPE_CHECKING:
    from tte_runtime.embedder import Embedder

BY_RECIPE = How()
Outcome = Score | DatasetError | MissingExtraError


def evaluate_mmeb(
    embedder: Embedder,
    folder: Path,
    datasets: Sequence[Dataset],
    out: Path,
    *,
    how: How = BY_RECIPE,
    limit: int | None = None,
    tell: Callable[[Dataset, Outcome], None] = lambda dataset, outcome: None,
) -> dict[Dataset, Outcome]:
    """Evaluate an embedder on datasets of a folder.

    Args:
        embedder: of queries and documents.
        folder: of the data, in VLM2Vec's layout.
        datasets: as `choose_datasets` gives them.
        out: where vectors and scores are kept. Vectors that are there already are not made again.
        how: how to embed.
        limit: only the first so many queries of each; what comes of it is no score of MMEB-V2.
        tell: called with the outcome of each dataset as it comes.

    Returns:
        of each dataset its score, or why it could not be read; one that cannot be read does not stop the others.

    Raises:
        IndexFileError: `out` has vectors of another embedder, or made with other options.
    """
    outcomes: dict[Dataset, Outcome] = {}
    for dataset in datasets:
        outcome: Outcome
        try:
            task = read_task(folder, dataset, limit)
        except (DatasetError, MissingExtraError) as error:
            outcome = error
        else:
            outcome = evaluate_task(embedder, task, out, how)
        outcomes[dataset] = outcome
        tell(dataset, outcome)
    return outcomes


def evaluate_task(embedder: Embedder, task: Task, out: Path, how: How) -> Score:
    """Embed, score and write one dataset; raises IndexFileError as `evaluate_mmeb`."""
    name = task.dataset.name
    place = out / task.dataset.modality
    numbered = {str(index): query.request for index, query in enumerate(task.queries)}
    queries = embed_requests(embedder, numbered, "query", place / f"{name}_qry", how, title=f"{name} queries")
    candidates = embed_requests(
        embedder, task.candidates, "document", place / f"{name}_tgt", how, title=f"{name} candidates"
    )
    score = score_task(task, queries, candidates)
    counts = {"num_pred": score.num_queries, "num_data": score.num_queries}
    write_json(place / f"{name}_score.json", score.metrics | counts)
    if score.failed:
        write_json(place / f"{name}_failed.json", score.failed)
    else:
        (place / f"{name}_failed.json").unlink(missing_ok=True)
    return score


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file whole, or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)
