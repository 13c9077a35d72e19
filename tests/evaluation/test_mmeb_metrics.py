"""MMEB's metrics on cases that were worked out by hand, and rankings with ties, failures and pools."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tte_runtime.errors import PictureError
from tte_runtime.evaluation.mmeb.catalogue import own
from tte_runtime.evaluation.mmeb.metrics import judge, means
from tte_runtime.evaluation.mmeb.scoring import score_task
from tte_runtime.evaluation.mmeb.tasks import Query, Request, Task
from tte_runtime.evaluation.mmeb.vectors import Embedded

SECOND, THIRD, FIFTH = (1 / math.log2(rank + 1) for rank in (2, 3, 5))


def test_one_right_answer_in_second_place() -> None:
    scores = judge(["x", "right", "y"], {"right": 1.0})
    assert (scores["hit@1"], scores["hit@5"], scores["mrr@5"], scores["map@5"]) == (0, 1, 0.5, 0.5)
    assert scores["ndcg_linear@5"] == scores["ndcg_exponential@5"] == pytest.approx(SECOND)
    assert (scores["precision@5"], scores["recall@5"]) == (0.2, 1)
    assert scores["f1@5"] == pytest.approx(2 * 0.2 / 1.2)


def test_several_right_answers_of_which_one_is_found_late_and_one_not_at_all() -> None:
    scores = judge(["a", "x", "b", "y", "c", "d"], {"a": 1.0, "c": 1.0, "d": 1.0, "gone": 1.0})
    ideal = 1 + SECOND + THIRD + 1 / math.log2(5)
    assert scores["hit@1"] == 1
    assert scores["ndcg_linear@5"] == pytest.approx((1 + FIFTH) / ideal)
    assert scores["map@5"] == pytest.approx((1 + 2 / 5) / 4)
    assert (scores["precision@5"], scores["recall@5"]) == (0.4, 0.5)


def test_graded_relevance_counts_its_gain() -> None:
    scores = judge(["b", "a", "x"], {"a": 3.0, "b": 1.0})
    assert scores["ndcg_linear@5"] == pytest.approx((1 + 3 * SECOND) / (3 + SECOND))
    assert scores["ndcg_exponential@5"] == pytest.approx((1 + 7 * SECOND) / (7 + SECOND))
    assert scores["ndcg_linear@1"] == pytest.approx(1 / 3)
    assert judge(["a", "b"], {"a": 3.0, "b": 1.0})["ndcg_linear@5"] == 1


def test_more_right_answers_than_the_cut_can_still_be_perfect() -> None:
    labels = dict.fromkeys("abcdefg", 1.0)
    scores = judge(list("abcdefg"), labels)
    assert (scores["ndcg_linear@5"], scores["map@5"], scores["precision@5"]) == (1, 1, 1)
    assert scores["recall@5"] == pytest.approx(5 / 7)


def test_nothing_ranked_is_a_miss_everywhere() -> None:
    assert set(judge([], {"right": 1.0}).values()) == {0.0}


def test_means_are_unweighted_and_in_the_order_of_the_leaderboard() -> None:
    found = means([judge(["a"], {"a": 1.0}), judge(["b"], {"a": 1.0})])
    assert found["hit@1"] == 0.5
    assert list(found)[:4] == ["hit@1", "hit@5", "hit@10", "ndcg_linear@1"]
    assert list(found)[-1] == "mrr@10"
    assert len(found) == 24


def embedded(**vectors: list[float]) -> Embedded:
    rows = {name.removeprefix("q"): index for index, name in enumerate(vectors)}
    return Embedded(rows, np.array(list(vectors.values()), np.float32), {})


def task(*queries: Query) -> Task:
    names = dict.fromkeys("abcd")
    return Task(own("made"), list(queries), {name: Request(name) for name in names})


CANDIDATES = embedded(a=[1, 0], b=[0, 1], c=[1, 0], d=[-1, 0])


def test_equal_scores_keep_the_order_of_the_candidates_and_are_counted() -> None:
    first = Query(Request("q"), {"a": 1.0}, ("a", "b", "c"))
    last = Query(Request("q"), {"a": 1.0}, ("c", "b", "a"))
    score = score_task(task(first, last), embedded(q0=[1, 0], q1=[1, 0]), CANDIDATES)
    assert (score.metrics["hit@1"], score.metrics["mrr@5"]) == (0.5, (1 + 1 / 2) / 2)
    assert score.num_tied == 2


def test_a_list_of_its_own_and_the_whole_pool_rank_differently() -> None:
    listed = Query(Request("q"), {"d": 1.0}, ("d", "b"))
    pooled = Query(Request("q"), {"d": 1.0})
    score = score_task(task(listed, pooled), embedded(q0=[-0.1, -1], q1=[-0.1, 1]), CANDIDATES)
    assert score.metrics["hit@1"] == 0.5
    assert score.metrics["mrr@10"] == (1 + 1 / 2) / 2
    assert (score.num_tied, score.num_queries) == (0, 2)


def test_what_failed_is_a_miss_and_stands_in_no_ranking() -> None:
    queries = Embedded({"0": 0}, np.array([[1, 0]], np.float32), {"1": PictureError("gone")})
    candidates = Embedded({"b": 0}, np.array([[-1, 0]], np.float32), {"a": PictureError("gone too")})
    asked = Query(Request("q"), {"a": 1.0}, ("a", "b"))
    score = score_task(task(asked, asked), queries, candidates)
    assert set(score.metrics.values()) == {0.0}, "not even hit@10, though there are fewer than ten"
    assert score.failed == {"query 1": "gone", "candidate a": "gone too"}
    assert score.num_queries == 2
