"""What heads, arms and markers have in common in training: groups of like length, states of given layers, and the loss.

First lessons: InfoNCE alone, from the start, separates pictures from boards from texts and then stays there. So a
vector is first asked, directly, for the words that its item stands for; InfoNCE joins in and then goes on alone. The
loss is sentence-transformers' MultipleNegativesRankingLoss over vectors (scale 50 = 1 / 0.02) with hard negatives.
Knows contests and their items; knows no head, and not who learns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen2VLForConditionalGeneration

from tte_runtime.training.bank import Bank
from tte_runtime.training.contests import Contest, Contests, Item, Write
from tte_runtime.training.loop import fit
from tte_runtime.training.objectives import TEMPERATURE
from tte_runtime.training.tokens import IGNORED, Encoder, Group, TrainingSequence

WORD_SCALE = 20.0
# Shares of the run: from here InfoNCE joins in, and from there it is alone.
CONTRAST_JOINS, WORDS_END = 0.25, 0.6


@dataclass(frozen=True)
class Round:
    """One cosine run: its steps, its highest learning rate, whether words come first, and how much of the damage to
    traces (left out, cut) there is. `readout` is where a head of decoder layers is read; others have one place.
    """

    steps: int
    learning_rate: float
    words_first: bool
    damage: float
    readout: str = "mean"


def by_length(items: Sequence[Item], size: int) -> tuple[list[list[Item]], Tensor]:
    """Groups of at most `size` items of like length, so that little is padded, and int64 [S]: where in the groups'
    order each item is.
    """
    order = sorted(range(len(items)), key=lambda index: len(items[index].ids))
    groups = [[items[index] for index in order[start : start + size]] for start in range(0, len(order), size)]
    return groups, torch.tensor(order).argsort()


def unsupervised(items: Iterable[Item]) -> list[TrainingSequence]:
    """Items as sequences of which no token is a lesson."""
    return [TrainingSequence(one.ids, [IGNORED] * len(one.ids), one.features) for one in items]


def layer_states(model: Qwen2VLForConditionalGeneration, group: Group, layers: Iterable[nn.Module]) -> Tensor:
    """States of a padded group after the embedding and these layers of its decoder, causally: [S, T, C], not normed."""
    table = model.get_input_embeddings()
    device = table.weight.device
    ids = group.ids.to(device)
    hidden = table(ids)
    if group.features is not None:
        slots = (ids == model.config.image_token_id).unsqueeze(-1)
        hidden = hidden.masked_scatter(slots, group.features.to(device, hidden.dtype))
    length = ids.shape[1]
    lowest = torch.finfo(hidden.dtype).min
    mask = torch.full((length, length), lowest, dtype=hidden.dtype, device=device).triu(1)[None, None]
    rotation = model.model.language_model.rotary_emb(hidden, group.positions.to(device))
    for layer in layers:
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rotation)
    return hidden


def word_loss(vectors: Tensor, table: Tensor, items: Sequence[Item]) -> Tensor:
    """Cross-entropy of the words an item stands for, read from its vector by cosine with the word embeddings.

    vectors: [S, E], normalised; table: the frozen token embeddings, [V, E]. The target is even over the words.
    """
    logits = WORD_SCALE * vectors @ F.normalize(table.float(), dim=-1).T
    target = torch.zeros_like(logits)
    for row, item in enumerate(items):
        for word in item.words:
            target[row, word] += 1 / len(item.words)
    return F.cross_entropy(logits, target)


class Lesson:
    """The loss of one vector an item, and what it was since the last report."""

    def __init__(self) -> None:
        self._contrast = MultipleNegativesRankingLoss(model=nn.Identity(), scale=1 / TEMPERATURE)
        self._seen: list[tuple[float, float]] = []

    def loss(self, vectors: Tensor, table: Tensor, contest: Contest) -> Tensor:
        """Of fp32 vectors [S, E] of the contest's items, in their order; `table` [V, E] is that of `word_loss`."""
        parts = list(vectors.split(len(contest.queries)))
        contrast = self._contrast.compute_loss_from_embeddings(parts, torch.empty(0))
        words = word_loss(vectors, table, contest.items)
        self._seen.append((contrast.item(), words.item()))
        share = min(max((contest.progress - CONTRAST_JOINS) / (WORDS_END - CONTRAST_JOINS), 0.0), 1.0)
        return share * contrast + (1 - share) * words

    def report(self) -> str:
        """Means of the two parts since the last report, in words."""
        contrast, words = (sum(column) / len(column) for column in zip(*self._seen, strict=True))
        self._seen.clear()
        return f"contrast {contrast:.3f} words {words:.3f}"


class Learner(nn.Module, ABC):
    """What Trainer sees: its forward takes one `contest` and gives {"loss": ...}."""

    @abstractmethod
    def report(self) -> str:
        """The losses since the last report, in words."""


@dataclass(frozen=True)
class Course:
    """Where the contests of a run come from.

    Attributes:
        model: whose tower sees boards drawn anew. write: as for `Contests`.
        size: questions of a contest.
    """

    model: Qwen2VLForConditionalGeneration
    bank: Bank
    encoder: Encoder
    write: Write | None
    size: int
    seed: int

    def round(
        self,
        name: str,
        training: Learner,
        folder: Path,
        number: int,
        plan: Round,
        clip_apart: Sequence[nn.Module] = (),
    ) -> None:
        """Train for round `number`; it goes on from what `folder` has. `clip_apart` is as for `fit`."""
        contests = Contests(
            self.bank,
            self.encoder,
            self.model.model.visual,
            self.write,
            self.seed + number,
            self.size,
            plan.steps,
            plan.words_first,
            plan.damage,
        )
        fit(
            f"{name}, round {number + 1}",
            training,
            contests,
            lambda items: {"contest": items[0]},
            folder,
            steps=plan.steps,
            batch_size=1,
            learning_rate=plan.learning_rate,
            seed=self.seed,
            device=self.model.device.type,
            check=training.report,
            check_every=50,
            clip_apart=clip_apart,
        )
