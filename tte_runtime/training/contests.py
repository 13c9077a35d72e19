"""Batches for the head: questions, their right documents, and documents that are nearly right.

No document of a batch is right for two questions and no hard negative is another question's answer, so
InfoNCE never pushes apart what belongs together. Item `index` is a pure function of (seed, index), the bank
and the tower. Knows nothing of losses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from tte_runtime.scenes import pictures
from tte_runtime.scenes.distractors import near_misses
from tte_runtime.scenes.draw import draw_scene
from tte_runtime.scenes.questions import Answer, Question, make_question
from tte_runtime.scenes.world import Scene
from tte_runtime.training.bank import Bank, features_of
from tte_runtime.training.tokens import Encoder
from tte_runtime.training.vision import shrink

KIND_SHARES = {
    "one_step": 4,
    "two_step": 5,
    "nested": 5,
    "replace": 7,
    "name": 2,
    "category": 2,
    "ground": 2,
    "describe": 3,
    "find": 5,
}
NEGATIVES = 2
# So that a vector means something whatever the limits on thinking were: shares of queries / documents
# without a trace, and of cut traces.
WITHOUT_TRACE = {"query": 0.15, "document": 0.1}
CUT_TRACE = 0.1


@dataclass(frozen=True)
class Item:
    """One thing to embed: every token that is fed, terminal token included, and the features of its
    picture.
    """

    ids: list[int]
    features: Tensor | None


@dataclass(frozen=True)
class Contest:
    """Queries, positives, and NEGATIVES lists of hard negatives, all of one length."""

    queries: list[Item]
    positives: list[Item]
    negatives: list[list[Item]]


@dataclass(frozen=True)
class Contests:
    """The stream of batches of `size` questions."""

    bank: Bank
    encoder: Encoder
    tower: Qwen2VisionTransformerPretrainedModel
    seed: int
    size: int

    def __call__(self, index: int) -> Contest:
        rng = np.random.default_rng([self.seed, 400, index])
        shares = np.array(list(KIND_SHARES.values()), float)
        chosen: dict[str, tuple[Question, int]] = {}
        while len(chosen) < self.size:
            kind = tuple(KIND_SHARES)[int(rng.choice(len(shares), p=shares / shares.sum()))]
            number = int(rng.integers(len(self.bank.scenes)))
            question = make_question(kind, self.bank.scenes[number], rng, "train")
            if question is not None:
                chosen.setdefault(question.answer.value, (question, number))
        queries, positives = [], []
        negatives: list[list[Item]] = [[] for _ in range(NEGATIVES)]
        for question, number in chosen.values():
            features = self.bank.scene_features[number] if question.scene else None
            queries.append(self._item("query", question.text, features, question.trace, rng))
            positives.append(self.document(question.answer, rng))
            for column, wrong in zip(negatives, self._wrong(question, number, chosen, rng), strict=True):
                column.append(self.document(wrong, rng))
        return Contest(queries, positives, negatives)

    def _wrong(
        self,
        question: Question,
        number: int,
        chosen: dict[str, tuple[Question, int]],
        rng: np.random.Generator,
    ) -> list[Answer]:
        """Near misses that are nobody's answer in this batch; after some tries, random pictures that are
        not.
        """
        for _ in range(8):
            wrong = near_misses(question, self.bank.scenes[number], rng, NEGATIVES)
            if all(answer.value not in chosen for answer in wrong):
                return wrong
        free = [name for name in pictures.names() if name not in chosen]
        return [Answer("picture", free[int(pick)]) for pick in rng.permutation(len(free))[:NEGATIVES]]

    def document(self, answer: Answer, rng: np.random.Generator) -> Item:
        """The document that `answer` is, drawn anew, with the teacher's trace (mostly)."""
        if answer.medium == "text":
            return self._item("document", answer.value, None, answer.document_trace, rng)
        if answer.medium == "picture":
            features = self.bank.a_picture(answer.value, rng)
        else:
            (features,) = features_of(self.tower, [shrink(draw_scene(Scene.parse(answer.value), rng))])
        return self._item("document", "", features, answer.document_trace, rng)

    def _item(
        self, role: str, text: str, features: Tensor | None, trace: str, rng: np.random.Generator
    ) -> Item:
        ids = self.encoder.prompt(role, text, 0 if features is None else len(features))
        thought = self.encoder.trace(trace)
        draw = rng.random()
        if draw < WITHOUT_TRACE[role]:
            thought = []
        elif draw < WITHOUT_TRACE[role] + CUT_TRACE:
            thought = [*thought[: int(rng.integers(1, len(thought)))], self.encoder.stop]
        return Item([*ids, *thought, self.encoder.suffix], None if features is None else features.float())
