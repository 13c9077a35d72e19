"""A trace as moves on the board: the teacher's traces are read in full, and anything else is shown as it
is.
"""

from __future__ import annotations

import pytest

from tte_runtime.demo import board
from tte_runtime.demo.gallery import pose_questions
from tte_runtime.demo.steps import read_trace
from tte_runtime.scenes.draw import BOARD_PX, CELL_PX


def test_two_steps_are_two_arrows() -> None:
    reading = read_trace("<think> grapes c1 ; one down d1 ; three right d4 </think> socks")
    assert [step.words for step in reading.steps] == ["grapes c1", "one down d1", "three right d4"]
    assert [step.cell for step in reading.steps] == ["c1", "d1", "d4"]
    assert [step.moves for step in reading.steps] == [False, True, True]
    assert reading.answer == "socks" and reading.answer_cell is None
    assert [(mark.cell, mark.label) for mark in board.marks(reading)] == [
        ("c1", "1"),
        ("d1", "2"),
        ("d4", "3"),
    ]
    down, right = board.arrows(reading)
    assert down.x1 == pytest.approx(down.x2) and down.y1 < down.y2
    assert right.y1 == pytest.approx(right.y2) and right.x1 < right.x2 < 3.5 * CELL_PX


def test_a_step_that_starts_anew_has_no_arrow() -> None:
    reading = read_trace("<think> saw b4 ; one left b3 ladybug ; dress d4 </think> a1 eagle b3 ladybug")
    assert len(board.marks(reading)) == 3 and len(board.arrows(reading)) == 1


def test_an_answer_that_is_a_cell_is_marked() -> None:
    assert [mark.label for mark in board.marks(read_trace("<think> lion </think> c1"))] == ["answer"]


def test_a_cell_named_twice_has_one_mark() -> None:
    (mark, other) = board.marks(read_trace("<think> saw b4 ; one left b3 ; one right b4 </think> saw"))
    assert (mark.label, other.label) == ("1, 3", "2")


@pytest.mark.parametrize("trace", ["", "fru fru fru", "<think>", "</think>", "<think> ; ; </think>", "<think> one"])
def test_any_text_can_be_read(trace: str) -> None:
    reading = read_trace(trace)
    assert reading.answer == "" and board.marks(reading) == [] and board.arrows(reading) == []


def test_every_kind_of_the_teachers_traces() -> None:
    for test in pose_questions(18, seed=4):
        reading = read_trace(test.question.trace)
        assert reading.answer == test.question.answer.value
        for mark in board.marks(reading):
            assert 0 <= mark.x < BOARD_PX and 0 <= mark.y < BOARD_PX
