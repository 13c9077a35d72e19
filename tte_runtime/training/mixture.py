"""What the reasoner is shown, and when: drills first, then more and more questions, documents all along.

Item `index` of a run is a pure function of (seed, index, length of the run) and of the bank. Knows nothing
of models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from tte_runtime.scenes import pictures
from tte_runtime.scenes.questions import KINDS, Answer, Question, make_question
from tte_runtime.scenes.split import Split
from tte_runtime.scenes.world import CELLS, Scene
from tte_runtime.training.bank import Bank
from tte_runtime.training.drills import DRILLS, PROMPT, WITH_SCENE, drill
from tte_runtime.training.tokens import IGNORED, Encoder, Row, TrainingSequence, pack

# Shares at the beginning of a run and from the middle on; between, they move in a straight line.
BEGINNING = {"drill.name": 28, "drill.find": 24, "drill.walk": 12, "drill.kind": 6}
BEGINNING |= {
    "one_step": 5,
    "two_step": 3,
    "nested": 2,
    "replace": 2,
    "name": 2,
    "category": 1,
    "ground": 2,
    "describe": 5,
    "find": 3,
}
BEGINNING |= {"document.scene": 2, "document.picture": 2, "document.text": 1}
LATER = {"drill.name": 5, "drill.find": 5, "drill.walk": 5, "drill.kind": 1}
LATER |= {
    "one_step": 11,
    "two_step": 16,
    "nested": 14,
    "replace": 14,
    "name": 3,
    "category": 4,
    "ground": 6,  # with copied texts, what is learnt last
    "describe": 4,
    "find": 4,
}
LATER |= {"document.scene": 5, "document.picture": 4, "document.text": 4}
assert BEGINNING.keys() == LATER.keys()
LATER_FROM = 0.5


@dataclass(frozen=True)
class Mixture:
    """The stream of packed rows of one run of `length` rows, `row_tokens` tokens each."""

    bank: Bank
    encoder: Encoder
    seed: int
    length: int
    row_tokens: int

    def __call__(self, index: int) -> Row:
        rng = np.random.default_rng([self.seed, 300, index])
        ramp = min(index / self.length / LATER_FROM, 1.0)
        shares = np.array([BEGINNING[kind] * (1 - ramp) + LATER[kind] * ramp for kind in BEGINNING])
        number = int(rng.integers(len(self.bank.scenes)))
        features = self.bank.scene_features[number]
        beginning = self.encoder.beginning(len(features))
        scene = TrainingSequence(beginning, [IGNORED] * len(beginning), features)
        chosen: list[TrainingSequence] = []
        room = self.row_tokens - len(beginning)
        while True:
            kind = tuple(BEGINNING)[int(rng.choice(len(shares), p=shares / shares.sum()))]
            one = make_sequence(kind, self.bank.scenes[number], features, self.bank, self.encoder, rng, "train")
            if one is None:
                continue
            room -= len(one.ids) - (len(beginning) if one.features is features else 0)
            if room < 0:
                return pack(scene, chosen, self.encoder, self.row_tokens)
            chosen.append(one)


def make_sequence(
    kind: str,
    scene: Scene,
    features: Tensor,
    bank: Bank,
    encoder: Encoder,
    rng: np.random.Generator,
    split: Split,
) -> TrainingSequence | None:
    """One sequence of `kind` about the scene; None when it has no such question in the split."""
    family, _, what = kind.partition(".")
    if family == "drill":
        assert what in DRILLS
        return _drill_sequence(what, scene, features, encoder, rng)
    if family == "document":
        return _document_sequence(what, scene, features, bank, encoder, rng)
    assert kind in KINDS
    question = make_question(kind, scene, rng, split)
    return None if question is None else question_sequence(question, features, encoder)


def question_sequence(question: Question, features: Tensor, encoder: Encoder) -> TrainingSequence:
    """A question as prompt and trace; `features` are those of its scene (left out when it has none)."""
    return encoder.sequence("query", question.text, features if question.scene else None, question.trace)


def _drill_sequence(
    what: str, scene: Scene, features: Tensor, encoder: Encoder, rng: np.random.Generator
) -> TrainingSequence:
    shown = features if what in WITH_SCENE else None
    prompt = encoder.prompt("query", PROMPT[what], 0 if shown is None else len(shown))
    ids, labels = list(prompt), [IGNORED] * len(prompt)
    for word, asked in drill(what, scene, rng):
        (token,) = encoder.encode(word)
        ids.append(token)
        labels.append(token if asked else IGNORED)
    return TrainingSequence(ids, labels, shown)


def _document_sequence(
    what: str, scene: Scene, features: Tensor, bank: Bank, encoder: Encoder, rng: np.random.Generator
) -> TrainingSequence:
    if what == "scene":
        return encoder.sequence("document", "", features, Answer("scene", scene.description).document_trace)
    if what == "picture":
        name = pictures.names()[int(rng.integers(len(pictures.names())))]
        return encoder.sequence("document", "", bank.a_picture(name, rng), Answer("picture", name).document_trace)
    assert what == "text", f"unknown document {what}"
    text = random_text(scene, rng)
    return encoder.sequence("document", text, None, Answer("text", text).document_trace)


def random_text(scene: Scene, rng: np.random.Generator) -> str:
    """A text document: a description, a category, a cell, or a few words in any order (copying must not
    depend on sense).
    """
    form = int(rng.integers(6))
    if form < 2:
        return scene.description
    categories = sorted(set(pictures.categories().values()))
    if form == 2:
        return categories[int(rng.integers(len(categories)))]
    if form == 3:
        return CELLS[int(rng.integers(len(CELLS)))]
    words = [*pictures.names(), *categories, *CELLS]
    return " ".join(words[int(index)] for index in rng.integers(len(words), size=int(rng.integers(1, 16))))
