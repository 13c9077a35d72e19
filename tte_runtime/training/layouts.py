"""Prompts and endings of other people's checkpoints, around the questions and traces that tte-tiny learnt from.

UME-R1 (arXiv 2511.00405) and RGE (arXiv 2511.16150): what their recipes say, and what the model has to write after a
trace. Everything is tokenised as tte-tiny does, so words that it does not know are spelt. Knows no losses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tte_runtime.recipes.base import Recipe
from tte_runtime.recipes.chat import TURN_END
from tte_runtime.recipes.rge import EMB, rge
from tte_runtime.recipes.ume_r1 import DISC, GEN, ume_r1
from tte_runtime.scenes.questions import Answer, answer_words
from tte_runtime.training.contests import Contests, Draft, Item
from tte_runtime.training.tokens import Encoder


@dataclass(frozen=True)
class Layout:
    """How a checkpoint of these authors thinks and is read.

    Attributes:
        recipe: prompts, and what ends a prompt where no trace is written.
        ending: tokens that the model writes after its trace.
        markers: new tokens, each the place of a vector, of spaces that never meet.
        named: a file has to name the recipe, because the authors' model is of another family than tte-tiny.
    """

    recipe: Recipe
    ending: tuple[str, ...]
    markers: tuple[str, ...]
    named: bool


LAYOUTS = {
    "ume_r1": Layout(ume_r1(), (GEN, TURN_END), (GEN, DISC), named=False),
    "rge": Layout(rge(), (EMB,), (EMB,), named=True),
}


class LayoutEncoder(Encoder):
    """The tokenizer with a layout's prompts around it."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, layout: Layout) -> None:
        super().__init__(tokenizer)
        self.layout = layout
        self.ending = tokenizer.convert_tokens_to_ids(list(layout.ending))
        self.at_once = tokenizer.convert_tokens_to_ids(list(layout.recipe.at_once))
        self.markers = tokenizer.convert_tokens_to_ids(list(layout.markers))

    def prompt(self, role: Any, text: str, image_tokens: int) -> list[int]:
        placeholders = ["<|image_pad|>" * image_tokens] if image_tokens else []
        return list(self.tokenizer(self.layout.recipe.prompt(role, placeholders, None, text)).input_ids)

    def trace(self, trace: str) -> list[int]:
        return [*self.encode(trace), *self.ending]


@dataclass(frozen=True)
class Marked(Item):
    """An item whose last `written` tokens the model has to write."""

    written: int = 0


@dataclass(frozen=True)
class MarkedContests(Contests):
    """Contests in a layout, every trace the teacher's. `blank`: features of the picture that texts are given."""

    blank: Tensor | None = None

    def _prompt(self, draft: Draft) -> tuple[list[int], Tensor | None]:
        return super()._prompt(draft if draft.features is not None else replace(draft, features=self.blank))

    def _finish(
        self, draft: Draft, prompt: tuple[list[int], Tensor | None], thought: list[int], rng: np.random.Generator
    ) -> Marked:
        assert isinstance(self.encoder, LayoutEncoder)
        ids, features = prompt
        trace = draft.trace
        if draft.role == "document" and " " in draft.text:
            # Nothing in these prompts tells a description that is sought from one that seeks: both name a scene.
            trace = Answer("scene", draft.text).document_trace
        thinks = self.encoder.layout.recipe.roles[draft.role].think
        tail = self.encoder.trace(trace) if thinks else self.encoder.at_once
        words = self.encoder.encode(" ".join(answer_words(trace)))
        return Marked([*ids, *tail], features, words, len(tail) if thinks else 0)
