"""The teacher is right, and nothing of the test occurs in training."""

from __future__ import annotations

import numpy as np
import pytest

from tte_runtime.scenes import pictures
from tte_runtime.scenes.distractors import near_misses
from tte_runtime.scenes.questions import (
    COMPOSITIONAL,
    KINDS,
    Question,
    answer_words,
    make_question,
    trace_words,
)
from tte_runtime.scenes.split import TEST_SHARE, in_test, split_scene
from tte_runtime.scenes.world import CELLS, COUNTS, Scene, move


def questions(kind: str, split: str, count: int) -> list[Question]:
    rng = np.random.default_rng([11, KINDS.index(kind), split == "test"])
    found: list[Question] = []
    while len(found) < count:
        question = make_question(kind, split_scene(rng, split), rng, split)  # type: ignore[arg-type]
        if question is not None:
            found.append(question)
    return found


def follow(scene: Scene, trace: str) -> str:
    """An independent reader of compositional traces: walks the steps on the board and returns the picture
    reached.
    """
    content = scene.content
    steps = " ".join(trace_words(trace)).split("<think>")[1].split("</think>")[0].split(";")
    name, cell = steps[0].split()
    assert content[cell] == name
    for step in steps[1:]:
        words = step.split()
        if words[0] not in COUNTS.values():
            assert content[words[1]] == words[0], "the replaced picture stands where the trace says"
            continue
        count = next(number for number, word in COUNTS.items() if word == words[0])
        reached = move(cell, words[1], count)
        assert reached == words[2]
        cell = reached
        if len(words) == 4:
            assert content[cell] == words[3]
    return content[cell]


@pytest.mark.parametrize("kind", COMPOSITIONAL)
def test_every_step_of_a_compositional_trace_holds_on_the_board(kind: str) -> None:
    for question in questions(kind, "train", 60):
        assert question.scene is not None
        reached = follow(question.scene, question.trace)
        answer = " ".join(answer_words(question.trace))
        assert answer == question.answer.value
        if kind != "replace":
            assert answer == reached
            continue
        victim = trace_words(question.trace.split(";")[-1])[0]
        edited = question.scene.replaced(question.scene.cell_of(victim), reached)
        assert answer == edited.description != question.scene.description


def test_the_simple_answers_are_right() -> None:
    for question in questions("category", "train", 40):
        cell, name = question.pairs[0]
        assert question.scene is not None and question.scene.content[cell] == name
        assert question.answer.value == pictures.categories()[name]
    for question in questions("ground", "train", 40):
        assert question.scene is not None and question.scene.content[question.answer.value] in question.text
    for question in questions("find", "train", 40):
        assert question.scene is None
        assert all(word in question.text for word in question.answer.value.split())


@pytest.mark.parametrize("kind", KINDS)
def test_no_question_pair_or_scene_of_the_test_occurs_in_training(kind: str) -> None:
    train, test = questions(kind, "train", 150), questions(kind, "test", 8)
    if kind in COMPOSITIONAL:
        assert not {one.text for one in train} & {one.text for one in test}
    assert not {pair for one in train for pair in one.pairs} & {pair for one in test for pair in one.pairs}
    for split, made in (("train", train), ("test", test)):
        for question in made:
            # The rule itself, not only this sample: each thing carries its side in its own hash.
            assert all(in_test("pair", *pair) == (split == "test") for pair in question.pairs)
            if kind in COMPOSITIONAL:
                assert in_test("question", question.text) == (split == "test")
            if question.scene is not None:
                assert in_test("scene", question.scene.description) == (split == "test")


def test_the_split_takes_the_shares_it_names() -> None:
    for what, share in TEST_SHARE.items():
        taken = np.mean([in_test(what, str(number)) for number in range(4000)])  # type: ignore[arg-type]
        assert abs(taken - share) < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_near_misses_are_wrong_and_different(kind: str) -> None:
    rng = np.random.default_rng(0)
    for question in questions(kind, "train", 20):
        scene = question.scene or Scene.parse(question.answer.value)
        wrong = near_misses(question, scene, rng, 2)
        assert len({question.answer, *wrong}) == 3
        assert all(one.medium == question.answer.medium for one in wrong)


def test_traces_are_compared_by_words_whatever_the_blanks() -> None:
    assert trace_words("<think> pizza b1</think> car<|im_end|>") == [
        "<think>",
        "pizza",
        "b1",
        "</think>",
        "car",
    ]
    assert answer_words("<think> pizza b1</think> car") == ["car"]
    assert answer_words("<think> pizza b1") == []
    assert set(CELLS) == {row + column for row in "abcd" for column in "1234"}
