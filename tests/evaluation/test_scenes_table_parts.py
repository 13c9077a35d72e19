"""The scenes table's parts: controls, intervals, judges and sizes on cases that can be checked by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from tte_runtime.errors import OptionError
from tte_runtime.evaluation.scenes import Document, make_pool, make_tests
from tte_runtime.evaluation.scenes import Test as Asked  # a name that pytest does not collect
from tte_runtime.evaluation.scenes_table.asking import Answers, Scenes
from tte_runtime.evaluation.scenes_table.bootstrap import Bootstrap, ratio_of_medians
from tte_runtime.evaluation.scenes_table.controls import CLASSES, FRAME, control_items, corrupted, filler
from tte_runtime.evaluation.scenes_table.cost import Sizes, parameters
from tte_runtime.evaluation.scenes_table.summary import Verdict
from tte_runtime.evaluation.scenes_table.systems import Probe, choose_probes
from tte_runtime.models.checkpoint import find_folder
from tte_runtime.scenes.questions import KINDS, UNTRAINED, Answer, Question, trace_words
from tte_runtime.scenes.split import belongs
from tte_runtime.scenes.world import COUNTS, move
from tte_runtime.types import Counts

EVERY = (*KINDS, *UNTRAINED)


@pytest.fixture(scope="module")
def tests() -> list[Asked]:
    return make_tests(4, 3, EVERY)


def test_a_walk_of_three_steps_leads_where_its_trace_says_and_is_never_trained(tests: list[Asked]) -> None:
    assert not set(UNTRAINED) & set(KINDS)
    counts = {word: count for count, word in COUNTS.items()}
    for question in (test.question for test in tests if test.question.kind == "three_step"):
        start, *steps = " ".join(trace_words(question.trace)[1:-2]).split(" ; ")
        name, cell = start.split()
        assert question.scene is not None and question.scene.cell_of(name) == cell and len(steps) == 3
        for count, direction, there in (step.split() for step in steps):
            assert move(cell, direction, counts[count]) == there
            cell = there
        assert question.scene.content[cell] == question.answer.value
        assert name in question.text
        assert belongs("question", "test", question.text) and belongs("pair", "test", *question.pairs[0])


def test_one_document_is_right_for_each_question_walks_of_three_steps_among_them(tests: list[Asked]) -> None:
    answers = [document.answer for document in make_pool(tests, 3, 1000)]
    assert len({answer.value for answer in answers}) == len(answers) >= 1000
    assert all(answers.count(test.question.answer) == 1 for test in tests)


def test_a_filler_is_as_long_as_the_trace_and_says_nothing(tests: list[Asked]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(find_folder("tte-tiny"))
    for trace in (test.question.trace for test in tests):
        ids, filled = (tokenizer.encode(text, add_special_tokens=False) for text in (trace, filler(trace)))
        assert len(ids) == len(filled)
        assert set(trace_words(filler(trace))) == set(FRAME)


@pytest.mark.parametrize("in_answer", [False, True])
def test_a_corrupted_trace_differs_by_one_word_of_the_same_class(tests: list[Asked], in_answer: bool) -> None:
    rng = np.random.default_rng(0)
    for trace in (test.question.trace for test in tests):
        words, others = trace_words(trace), trace_words(corrupted(trace, rng, in_answer=in_answer))
        assert len(words) == len(others)
        ((place, (word, other)),) = [
            (i, pair) for i, pair in enumerate(zip(words, others, strict=True)) if len({*pair}) > 1
        ]
        assert (place > words.index("</think>")) == in_answer
        assert any(word in alike and other in alike for alike in CLASSES)


def test_controls_change_what_they_say_and_nothing_else(tests: list[Asked]) -> None:
    given = {name: control_items(name, tests) for name in ("teacher", "no_picture", "other_trace", "filler")}
    answers = {test.question.trace: test.question for test in tests}
    for test, same, blind, other, filled in zip(tests, *given.values(), strict=True):
        assert same == {**test.item, "trace": test.question.trace}
        assert blind == {"text": test.question.text, "trace": test.question.trace}
        theirs = answers[other["trace"]]
        assert theirs.kind == test.question.kind and theirs.answer != test.question.answer
        assert {**filled, "trace": ""} == {**other, "trace": ""} == {**test.item, "trace": ""}
    assert control_items("wrong_step", tests) == control_items("wrong_step", tests)
    with pytest.raises(OptionError, match="unknown control 'noise'"):
        control_items("noise", tests)
    with pytest.raises(OptionError, match="'describe' questions all have one answer"):
        control_items("other_trace", [test for test in tests if test.question.kind == "describe"][:1])


def test_a_verdict_on_three_questions_by_hand() -> None:
    pool = [
        Document(Answer("picture", "cat"), {}),
        Document(Answer("text", "a1"), {}),
        Document(Answer("text", "b2"), {}),
    ]
    questions = [Question("ground", "where?", None, "", Answer("text", cell), ()) for cell in ("a1", "b2", "b2")]
    scenes = Scenes([Asked(one, {"text": one.text}) for one in questions], pool, 0, "")
    traces = ["<think> cat </think> a1", "<think> cat </think> a1", "<think> cat"]
    verdict = Verdict.of(Answers(np.arange(3), np.array([1, 1, 2]), traces, ""), scenes)
    assert verdict.right.tolist() == [True, False, True]
    assert verdict.told.tolist() == [True, False, False]
    assert verdict.followed.tolist() == [True, True, False]


def test_means_are_over_kinds_and_differences_are_paired() -> None:
    kinds = ["name"] * 40 + ["find"] * 10
    bootstrap = Bootstrap(kinds, {"both": ("name", "find"), "find": ("find",)})
    hard = np.array([0.0, 1.0] * 20 + [1.0] * 10)
    figures = bootstrap.figure(hard)
    assert (figures["both"].value, figures["find"].value) == (0.75, 1.0)
    assert (figures["find"].low, figures["find"].high) == (pytest.approx(1.0), pytest.approx(1.0))
    assert figures["both"].low < 0.75 < figures["both"].high
    # The interval of a share of 1/2 of 40, halved as one of two kinds: 1.96 * sqrt(0.25 / 40) / 2.
    assert (figures["both"].high - figures["both"].low) / 2 == pytest.approx(0.0775, abs=0.01)
    easy = np.maximum(hard, np.arange(50) == 0)  # one more question right, all else alike
    more = bootstrap.difference(easy, hard)
    assert more["both"].value == pytest.approx(1 / 80)
    assert more["both"].high - more["both"].low < 0.5 * (figures["both"].high - figures["both"].low)
    assert bootstrap.difference(hard, hard)["both"].high == 0.0


def test_a_ratio_of_times_is_paired_by_question() -> None:
    times = np.array([1.0, 2.0, 3.0, 40.0, 50.0])
    ratio = ratio_of_medians(3 * times, times)
    assert (ratio.value, ratio.low, ratio.high) == (3.0, 3.0, 3.0)


def test_sizes_and_parameters_of_a_checkpoint_made_by_hand(tmp_path: Path) -> None:
    layer, words = torch.ones(4, 3), torch.zeros(10, 4)
    tower = {"visual.blocks.0.w": torch.full((5, 2), 2.0), "visual.merger.w": torch.full((3, 2), 3.0)}
    model = {"model.layers.0.w": layer, "model.layers.1.w": layer.clone(), "model.layers.0.norm": torch.ones(4)}
    save_file(
        {**model, **tower, "model.embed_tokens.weight": words, "lm_head.weight": words.clone()},
        tmp_path / "a.safetensors",
    )
    save_file({"layers.0.w": torch.full((2, 2), 5.0)}, tmp_path / "head.safetensors")
    sizes = Sizes.of(tmp_path)
    assert sizes == Sizes(layers=24, output=40, head=4, blocks=10, merger=6)
    counts = Counts(computed=100, trace=10, head=50, vision=16)
    assert 1e6 * sizes.operations(counts) == 2 * (24 * 100 + 40 * 10 + 4 * 50 + (4 * 10 + 6) * 16)
    assert parameters([tmp_path, tmp_path]) == 12 + 4 + 10 + 6 + 40 + 4  # equal tensors once


def test_rows_are_named_and_unknown_systems_refused() -> None:
    keys = [probe.key for probe in choose_probes(["decoder_layers", "controls"])]
    assert keys[:3] == ["decoder_layers", "decoder_layers@0", "decoder_layers@4"]
    assert keys[-1] == "decoder_layers+wrong_answer" and len(keys) == len(set(keys)) == 11
    whole = {probe.key for probe in choose_probes([]) if probe.whole}
    assert {"direct", "looped", "tte_t", "tte_s", "qformer", "decoder_layers@0"} < whole and "tte_s@4" not in whole
    assert [probe.key for probe in choose_probes(["direct"])] == ["direct"]
    with pytest.raises(OptionError, match="unknown system 'tte_x'"):
        choose_probes(["tte_x"])
    probe: Probe = choose_probes(["tte_s"])[1]
    assert probe.think(True) is False
