"""From vectors to scores: every query ranks its candidates by their cosine. Knows vectors and names; knows no files.

As in VLM2Vec's eval.py, with three differences. Equal scores keep the order of the candidates (its sort is not stable).
What failed is a miss. Each page keeps its own relevance: VLM2Vec's `RankingMetrics.evaluate` passes labels through a
set and so may give their `rel_scores` to other pages, differently in every process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tte_runtime.evaluation.mmeb.metrics import CUTS, judge, means
from tte_runtime.evaluation.mmeb.tasks import Task
from tte_runtime.evaluation.mmeb.vectors import Embedded

QUERIES_AT_ONCE = 256  # rows of the matrix of scores against a whole pool


@dataclass(frozen=True)
class Score:
    """What came of one dataset.

    Attributes:
        metrics: by name, means over all queries.
        num_queries: how many.
        num_tied: queries whose best score two candidates share. Where candidates are listed the right one stands first
            and wins, so many of these mean that the vectors have collapsed, not that the model is good.
        failed: "query 3" or "candidate x" -> what went wrong.
    """

    metrics: dict[str, float]
    num_queries: int
    num_tied: int
    failed: dict[str, str]


def score_task(task: Task, queries: Embedded, candidates: Embedded) -> Score:
    """Rank and judge. Queries are named by their index; a candidate that failed is in no ranking."""
    names = list(candidates.rows)
    place = {name: index for index, name in enumerate(names)}
    matrix = candidates.vectors[list(candidates.rows.values())]
    judged, num_tied = [], 0
    for index, ranked, tied in _rankings(task, queries, names, place, matrix):
        judged.append(judge(ranked, task.queries[index].labels))
        num_tied += tied
    missed = len(task.queries) - len(judged)
    judged += [judge([], {"": 1.0})] * missed
    failed = {f"query {name}": str(error) for name, error in queries.failed.items()}
    failed |= {f"candidate {name}": str(error) for name, error in candidates.failed.items()}
    return Score(means(judged), len(task.queries), num_tied, failed)


def _rankings(
    task: Task, queries: Embedded, names: list[str], place: dict[str, int], matrix: NDArray[np.float32]
) -> Iterator[tuple[int, list[str], bool]]:
    """(index of the query, its best candidates, whether two share the first place), of queries that have a vector."""
    whole = [i for i, query in enumerate(task.queries) if query.candidates is None and str(i) in queries.rows]
    for start in range(0, len(whole), QUERIES_AT_ONCE):
        block = whole[start : start + QUERIES_AT_ONCE]
        scores = queries.vectors[[queries.rows[str(i)] for i in block]] @ matrix.T
        for index, row in zip(block, scores, strict=True):
            yield (index, *_best(row, names))
    for index, query in enumerate(task.queries):
        if query.candidates is None or str(index) not in queries.rows:
            continue
        own = [name for name in query.candidates if name in place]
        scores = matrix[[place[name] for name in own]] @ queries.vectors[queries.rows[str(index)]]
        yield (index, *_best(scores, own))


def _best(scores: NDArray[np.float32], names: list[str]) -> tuple[list[str], bool]:
    order = np.argsort(-scores, kind="stable")[: max(CUTS)]
    return [names[index] for index in order], len(order) > 1 and bool(scores[order[0]] == scores[order[1]])
