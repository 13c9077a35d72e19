"""Batches for the head: questions, their right documents, and documents that are nearly right.

No document of a batch is right for two questions and no hard negative is another question's answer, so
InfoNCE never pushes apart what belongs together. Item `index` is a pure function of (seed, index), the bank
and the tower. Knows nothing of losses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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
OWN_EVERY = 8


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
class Draft:
    """An item before its trace is settled: role, prompt ids, picture features, the teacher's trace ids."""

    role: str
    prompt: list[int]
    features: Tensor | None
    thought: list[int]


@dataclass(frozen=True)
class Contests:
    """The stream of batches of `size` questions.

    `write` gives the model's own traces of prompts; every OWN_EVERY-th batch has those instead of the
    teacher's, so that the head has seen the mistakes it will meet.
    """

    bank: Bank
    encoder: Encoder
    tower: Qwen2VisionTransformerPretrainedModel
    write: Callable[[list[tuple[list[int], Tensor | None]]], list[list[int]]]
    seed: int
    size: int

    def __call__(self, index: int) -> Contest:
        rng = np.random.default_rng([self.seed, 400, index])
        chosen = self._choose(rng)
        columns: list[list[Draft]] = [[] for _ in range(2 + NEGATIVES)]
        for question, number in chosen.values():
            features = self.bank.scene_features[number] if question.scene else None
            wrong = self._wrong(question, number, chosen, rng)
            columns[0].append(self._draft("query", question.text, features, question.trace))
            for column, answer in zip(columns[1:], (question.answer, *wrong), strict=True):
                column.append(self._document(answer, rng))
        if index % OWN_EVERY == OWN_EVERY - 1:
            columns = [self._thought_again(column) for column in columns]
        queries, positives, *negatives = [[self._finish(draft, rng) for draft in column] for column in columns]
        return Contest(queries, positives, negatives)

    def _choose(self, rng: np.random.Generator) -> dict[str, tuple[Question, int]]:
        """Questions with answers all different, by answer, each with its scene's number."""
        shares = np.array(list(KIND_SHARES.values()), float)
        chosen: dict[str, tuple[Question, int]] = {}
        while len(chosen) < self.size:
            kind = tuple(KIND_SHARES)[int(rng.choice(len(shares), p=shares / shares.sum()))]
            number = int(rng.integers(len(self.bank.scenes)))
            question = make_question(kind, self.bank.scenes[number], rng, "train")
            if question is not None:
                chosen.setdefault(question.answer.value, (question, number))
        return chosen

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

    def _draft(self, role: str, text: str, features: Tensor | None, trace: str) -> Draft:
        prompt = self.encoder.prompt(role, text, 0 if features is None else len(features))
        return Draft(role, prompt, None if features is None else features.float(), self.encoder.trace(trace))

    def _document(self, answer: Answer, rng: np.random.Generator) -> Draft:
        """The document that `answer` is, drawn anew."""
        if answer.medium == "text":
            return self._draft("document", answer.value, None, answer.document_trace)
        if answer.medium == "picture":
            features = self.bank.a_picture(answer.value, rng)
        else:
            (features,) = features_of(self.tower, [shrink(draw_scene(Scene.parse(answer.value), rng))])
        return self._draft("document", "", features, answer.document_trace)

    def _thought_again(self, drafts: list[Draft]) -> list[Draft]:
        own = self.write([(draft.prompt, draft.features) for draft in drafts])
        return [replace(draft, thought=thought) for draft, thought in zip(drafts, own, strict=True)]

    def _finish(self, draft: Draft, rng: np.random.Generator) -> Item:
        """The item as it will be fed: with its trace (mostly), or cut short and closed, or without."""
        thought = draft.thought
        draw = rng.random()
        if draw < WITHOUT_TRACE[draft.role]:
            thought = []
        elif draw < WITHOUT_TRACE[draft.role] + CUT_TRACE:
            thought = [*thought[: int(rng.integers(1, len(thought)))], self.encoder.stop]
        return Item([*draft.prompt, *thought, self.encoder.suffix], draft.features)
