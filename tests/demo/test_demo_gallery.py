"""The demo's questions and gallery: seeded, held out, exactly one right document a question."""

from __future__ import annotations

import pytest

from tte_runtime.demo.gallery import ORDER, image_of, is_answer, make_gallery, pose_questions
from tte_runtime.scenes.questions import COMPOSITIONAL, allowed
from tte_runtime.scenes.split import belongs


@pytest.mark.parametrize("count", [1, 6, 11])
def test_questions_take_the_kinds_in_turn(count: int) -> None:
    kinds = [test.question.kind for test in pose_questions(count, seed=3)]
    assert kinds == [ORDER[index % len(ORDER)] for index in range(count)]
    assert set(kinds[:4]) <= set(COMPOSITIONAL)


def test_questions_are_held_out() -> None:
    for test in pose_questions(12, seed=1):
        assert allowed(test.question, "test")
        if test.question.scene is not None:
            assert belongs("scene", "test", test.question.scene.description)


def test_each_question_has_one_right_document() -> None:
    tests = pose_questions(9, seed=2)
    documents = make_gallery(tests, 150, seed=2)
    assert len(documents) >= 150
    assert [sum(is_answer(test, document) for document in documents) for test in tests] == [1] * 9


def test_the_same_seed_gives_the_same_gallery() -> None:
    first, second = (make_gallery(pose_questions(4, 5), 1, 5) for _ in range(2))
    assert [document.answer for document in first] == [document.answer for document in second]
    for one, other in zip(first, second, strict=True):
        pictures = [image_of(document.item) for document in (one, other)]
        assert [picture and picture.tobytes() for picture in pictures].count(None) in (0, 2)
        assert pictures[0] is None or pictures[1] is None or pictures[0].tobytes() == pictures[1].tobytes()
