"""Stage 3: the embedding head learns to read the frozen backbone's states, by InfoNCE at temperature 0.02,
question -> document.

The loss is sentence-transformers' MultipleNegativesRankingLoss over vectors (scale 50 = 1 / 0.02) with hard
negatives. The head starts as a copy of the backbone's last layers. Knows nothing of how traces are written;
it sees the states of given ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen2VLForConditionalGeneration

from tte_runtime.heads.reference import ReferenceHead
from tte_runtime.training.bank import Bank
from tte_runtime.training.checkpoint import HEAD_LAYERS, MAX_TRACE_TOKENS, TAP_LAYER
from tte_runtime.training.contests import Contest, Contests, Item
from tte_runtime.training.generate import greedy_traces
from tte_runtime.training.loop import autocast, fit, keep
from tte_runtime.training.tokens import IGNORED, Encoder, Group, TrainingSequence, pad

TEMPERATURE = 0.02
GROUP_SIZE = 32
WORD_SCALE = 20.0
WORD_WEIGHT = 1.0
# Shares of the run: from here InfoNCE joins in, and from there it is alone.
CONTRAST_JOINS, WORDS_END = 0.25, 0.6


@torch.no_grad()
def tapped_states(model: Qwen2VLForConditionalGeneration, group: Group) -> Tensor:
    """States after the tap layer of a padded group, [S, T, C]; only the layers below the tap are run."""
    device = model.lm_head.weight.device
    ids = group.ids.to(device)
    hidden = model.get_input_embeddings()(ids)
    if group.features is not None:
        slots = (ids == model.config.image_token_id).unsqueeze(-1)
        hidden = hidden.masked_scatter(slots, group.features.to(device, hidden.dtype))
    backbone = model.model.language_model
    length = ids.shape[1]
    mask = torch.full((length, length), torch.finfo(hidden.dtype).min, dtype=hidden.dtype, device=device).triu(1)[
        None, None
    ]
    rotation = backbone.rotary_emb(hidden, group.positions.to(device))
    for layer in backbone.layers[:TAP_LAYER]:
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rotation)
    return hidden


def embed(model: Qwen2VLForConditionalGeneration, head: ReferenceHead, items: list[Item], encoder: Encoder) -> Tensor:
    """Vectors of items in the order given, [S, E]; sorted by length inside so that little is padded."""
    order = sorted(range(len(items)), key=lambda index: len(items[index].ids))
    vectors: list[Tensor] = []
    for start in range(0, len(order), GROUP_SIZE):
        chosen = [items[index] for index in order[start : start + GROUP_SIZE]]
        group = pad([TrainingSequence(one.ids, [IGNORED] * len(one.ids), one.features) for one in chosen], encoder)
        device = model.lm_head.weight.device
        vectors.append(
            head(
                tapped_states(model, group).float(),
                group.positions.to(device),
                (group.lengths - 1).to(device),
            )
        )
    back = torch.empty(len(order), dtype=torch.int64)
    back[torch.tensor(order)] = torch.arange(len(order))
    return torch.cat(vectors)[back.to(vectors[0].device)]


def word_loss(vectors: Tensor, table: Tensor, items: list[Item]) -> Tensor:
    """Cross-entropy of the words an item stands for, read from its vector by cosine with the word embeddings.

    vectors: [S, E], normalised; table: the frozen token embeddings, [V, E]. The target is even over the words.
    """
    logits = WORD_SCALE * vectors @ F.normalize(table.float(), dim=-1).T
    target = torch.zeros_like(logits)
    for row, item in enumerate(items):
        for word in item.words:
            target[row, word] += 1 / len(item.words)
    return F.cross_entropy(logits, target)


class HeadTraining(nn.Module):
    """What Trainer sees: the head's parameters and the loss.

    First lessons: InfoNCE alone, from the start, separates pictures from boards from texts and then stays
    there. So the vector is first asked, directly, for the words that its item stands for; InfoNCE joins in
    and then goes on alone.
    """

    def __init__(self, model: Qwen2VLForConditionalGeneration, head: ReferenceHead, encoder: Encoder) -> None:
        super().__init__()
        self.head = head
        self.encoder = encoder
        # In a tuple, so that the frozen backbone is no part of this module's parameters.
        self.frozen = (model,)
        self.loss = MultipleNegativesRankingLoss(model=nn.Identity(), scale=1 / TEMPERATURE)
        self.seen: list[tuple[float, float]] = []

    def forward(self, contest: Contest) -> dict[str, Tensor]:
        columns = [contest.queries, contest.positives, *contest.negatives]
        items = [item for column in columns for item in column]
        with autocast(next(self.head.parameters()).device.type):
            vectors = embed(self.frozen[0], self.head, items, self.encoder)
        parts = list(vectors.float().split(len(contest.queries)))
        contrast = self.loss.compute_loss_from_embeddings(parts, torch.empty(0))
        words = word_loss(vectors.float(), self.frozen[0].get_input_embeddings().weight, items)
        self.seen.append((contrast.item(), words.item()))
        join, alone = CONTRAST_JOINS, WORDS_END
        share = min(max((contest.progress - join) / (alone - join), 0.0), 1.0)
        return {"loss": share * contrast + (1 - share) * WORD_WEIGHT * words}

    def report(self) -> str:
        """The two losses since the last report, in words."""
        contrast, words = (sum(column) / len(column) for column in zip(*self.seen, strict=True))
        self.seen.clear()
        return f"(training) contrast {contrast:.3f} words {words:.3f}"


@dataclass(frozen=True)
class Round:
    """One cosine run of the head: its steps, its highest learning rate, whether words come first, and how
    much of the damage to traces (left out, cut) there is.
    """

    steps: int
    learning_rate: float
    words_first: bool
    damage: float


# What a damaged trace no longer says cannot be learnt; most of the loss at the end is that. The last round has
# less of it, and learns the small differences between boards.
ROUNDS = (Round(600, 1e-3, True, 1.0), Round(750, 8e-4, False, 1.0), Round(600, 8e-4, False, 0.3))


def train_head(
    model: Qwen2VLForConditionalGeneration,
    bank: Bank,
    encoder: Encoder,
    folder: Path,
    *,
    rounds: tuple[Round, ...] = ROUNDS,
    batch_size: int,
    seed: int,
) -> ReferenceHead:
    """Train the head over the frozen model, or load, round by round, what `folder` has finished."""
    head = ReferenceHead(model.config, HEAD_LAYERS).to(model.device)
    head.initialise_from(model.model.language_model)
    model.requires_grad_(False)
    for number, plan in enumerate(rounds):
        done = folder / f"head{number}.safetensors"
        if not done.is_file():
            training = HeadTraining(model, head, encoder)
            contests = Contests(
                bank,
                encoder,
                model.model.visual,
                lambda prompts: greedy_traces(model, prompts, encoder, MAX_TRACE_TOKENS),
                seed + number,
                batch_size,
                plan.steps,
                plan.words_first,
                plan.damage,
            )
            fit(
                f"head, round {number + 1}",
                training,
                contests,
                lambda items: {"contest": items[0]},
                folder / f"run{number}",
                steps=plan.steps,
                batch_size=1,
                learning_rate=plan.learning_rate,
                seed=seed,
                device=model.device.type,
                check=training.report,
                check_every=50,
            )
            keep(head.state_dict(), done)
        head.load_state_dict(load_file(done))
    return head.eval()
