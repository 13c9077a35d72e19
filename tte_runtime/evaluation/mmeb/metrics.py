"""The ranking metrics that MMEB-V2 reports, of one query and as means. Knows names and gains; knows no vectors.

Hit@1 is the headline of images and videos, linear NDCG@5 of visual documents; the leaderboard's files hold all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

CUTS = (1, 5, 10)
MAIN = {"image": "hit@1", "video": "hit@1", "visdoc": "ndcg_linear@5", "own": "hit@1"}


def judge(ranked: Sequence[str], labels: Mapping[str, float]) -> dict[str, float]:
    """Every metric of one query, at 1, 5 and 10, as "hit@1", "ndcg_linear@5" and so on.

    Args:
        ranked: names of candidates, the best first, none twice; there may be fewer than ten.
        labels: what is relevant, and how much (1 where relevance is binary). At least one.
    """
    scores: dict[str, float] = {}
    for cut in CUTS:
        gains = [labels.get(name, 0.0) for name in ranked[:cut]]
        found = [name in labels for name in ranked[:cut]]
        precision, recall = sum(found) / cut, sum(found) / len(labels)
        scores |= {
            f"hit@{cut}": float(any(found)),
            f"ndcg_linear@{cut}": _ndcg(gains, list(labels.values()), cut),
            f"ndcg_exponential@{cut}": _ndcg(
                [2**gain - 1 for gain in gains], [2**gain - 1 for gain in labels.values()], cut
            ),
            f"precision@{cut}": precision,
            f"recall@{cut}": recall,
            f"f1@{cut}": 2 * precision * recall / (precision + recall) if any(found) else 0.0,
            f"map@{cut}": _average_precision(found) / min(len(labels), cut),
            f"mrr@{cut}": 1 / (found.index(True) + 1) if any(found) else 0.0,
        }
    return scores


def means(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every metric over queries (at least one), in the order in which VLM2Vec's files have them."""
    names = sorted(scores[0], key=lambda name: (_ORDER.index(name.split("@")[0]), int(name.split("@")[1])))
    return {name: math.fsum(score[name] for score in scores) / len(scores) for name in names}


_ORDER = ("hit", "ndcg_linear", "ndcg_exponential", "precision", "recall", "f1", "map", "mrr")


def _ndcg(gains: Sequence[float], ideal: Sequence[float], cut: int) -> float:
    """Gains in the order of the ranking, over what the best order of all gains would have."""
    best = _dcg(sorted(ideal, reverse=True)[:cut])
    return _dcg(gains) / best if best > 0 else 0.0


def _dcg(gains: Sequence[float]) -> float:
    return math.fsum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains))


def _average_precision(found: Sequence[bool]) -> float:
    """The sum of the precision at every hit."""
    return math.fsum(sum(found[: rank + 1]) / (rank + 1) for rank, hit in enumerate(found) if hit)
