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
from tte_runtime.scenes.questions import Answer, Question, answer_words, make_question
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
    "category": 4,
    "ground": 6,
    "describe": 4,
    "find": 6,
}
NEGATIVES = 2
# So that a vector means something whatever the limits on thinking were: shares of queries / documents
# without a trace, and of cut traces.
WITHOUT_TRACE = {"query": 0.15, "document": 0.1}
CUT_TRACE = 0.1
OWN_EVERY = 8

Write = Callable[[list[tuple[list[int], Tensor | None]]], list[list[int]]]  # prompts with their features -> traces


@dataclass(frozen=True)
class Item:
    """One thing to embed: every token that is fed, terminal token included, and the features of its picture.

    `words` are the token ids of what it stands for (the teacher's answer), for the head's first lessons.
    """

    ids: list[int]
    features: Tensor | None
    words: tuple[int, ...] = ()


@dataclass(frozen=True)
class Contest:
    """Queries, positives, and NEGATIVES lists of hard negatives, all of one length; how far the run is."""

    progress: float
    queries: list[Item]
    positives: list[Item]
    negatives: list[list[Item]]

    @property
    def items(self) -> list[Item]:
        """All of them, column after column."""
        return [item for column in (self.queries, self.positives, *self.negatives) for item in column]


@dataclass(frozen=True)
class Draft:
    """An item before its trace is settled: role, text, picture features (or the pixels that still have to
    be seen), the teacher's trace.
    """

    role: str
    text: str
    features: Tensor | np.ndarray | None
    trace: str


@dataclass(frozen=True)
class Contests:
    """The stream of batches of `size` questions.

    `write` gives the model's own traces of prompts; every OWN_EVERY-th batch has those instead of the
    teacher's, so that the head has seen the mistakes it will meet. `None`: no item has a trace.
    """

    bank: Bank
    encoder: Encoder
    tower: Qwen2VisionTransformerPretrainedModel
    write: Write | None
    seed: int
    size: int
    length: int
    words_first: bool
    damage: float

    def __call__(self, index: int) -> Contest:
        rng = np.random.default_rng([self.seed, 400, index])
        chosen = self._choose(rng)
        columns: list[list[Draft]] = [[] for _ in range(2 + NEGATIVES)]
        for question, number in chosen.values():
            features = self.bank.scene_features[number] if question.scene else None
            wrong = self._wrong(question, number, chosen, rng)
            columns[0].append(Draft("query", question.text, features, question.trace))
            for column, answer in zip(columns[1:], (question.answer, *wrong), strict=True):
                column.append(self._document(answer, rng))
        drafts = self._seen([draft for column in columns for draft in column])
        prompts = [self._prompt(draft) for draft in drafts]
        if self.write is None:
            thoughts: list[list[int]] = [[] for _ in prompts]
        elif index % OWN_EVERY == OWN_EVERY - 1:
            thoughts = self.write(prompts)
        else:
            thoughts = [self.encoder.trace(draft.trace) for draft in drafts]
        items = [
            self._finish(draft, prompt, thought, rng)
            for draft, prompt, thought in zip(drafts, prompts, thoughts, strict=True)
        ]
        parts = [items[start : start + self.size] for start in range(0, len(items), self.size)]
        progress = index / self.length if self.words_first else 1.0
        return Contest(progress, parts[0], parts[1], parts[2:])

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

    def _document(self, answer: Answer, rng: np.random.Generator) -> Draft:
        """The document that `answer` is, boards drawn anew."""
        if answer.medium == "text":
            return Draft("document", answer.value, None, answer.document_trace)
        if answer.medium == "picture":
            return Draft("document", "", self.bank.a_picture(answer.value, rng), answer.document_trace)
        pixels = shrink(draw_scene(Scene.parse(answer.value), rng))
        return Draft("document", "", pixels, answer.document_trace)

    def _seen(self, drafts: list[Draft]) -> list[Draft]:
        """The drafts with pixels turned into features, all boards in one pass of the tower."""
        drawn = [row for row, draft in enumerate(drafts) if isinstance(draft.features, np.ndarray)]
        pixels = [np.asarray(drafts[row].features) for row in drawn]
        seen = list(drafts)
        for row, features in zip(drawn, features_of(self.tower, pixels), strict=True):
            seen[row] = replace(drafts[row], features=features)
        return seen

    def _prompt(self, draft: Draft) -> tuple[list[int], Tensor | None]:
        assert not isinstance(draft.features, np.ndarray), "pixels are turned into features before"
        features = None if draft.features is None else draft.features.float()
        return self.encoder.prompt(draft.role, draft.text, 0 if features is None else len(features)), features

    def _finish(
        self, draft: Draft, prompt: tuple[list[int], Tensor | None], thought: list[int], rng: np.random.Generator
    ) -> Item:
        """The item as it will be fed: with its trace (mostly), or cut short and closed, or without."""
        ids, features = prompt
        draw = rng.random()
        without = WITHOUT_TRACE[draft.role] * self.damage
        if draw < without:
            thought = []
        elif thought and draw < without + CUT_TRACE * self.damage:
            thought = [*thought[: int(rng.integers(1, len(thought)))], self.encoder.stop]
        words = self.encoder.encode(" ".join(answer_words(draft.trace)))
        return Item([*ids, *thought, self.encoder.suffix], features, words)
