"""Stage 3: the embedding head learns to read the frozen backbone's states, by InfoNCE at temperature 0.02,
question -> document.

The loss is sentence-transformers' MultipleNegativesRankingLoss over vectors (scale 50 = 1 / 0.02) with hard
negatives. The head starts as a copy of the backbone's last layers. Knows nothing of how traces are written;
it sees the states of given ones. Several kinds of head can learn in one run: the frozen backbone's states, the costly
part, are computed once, and each head learns what it would alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen2VLForConditionalGeneration

from tte_runtime.heads.reference import HeadModule, make_reference_head
from tte_runtime.training.bank import Bank
from tte_runtime.training.checkpoint import HEADS, MAX_TRACE_TOKENS, TAP_LAYER
from tte_runtime.training.contests import Contest, Contests, Item
from tte_runtime.training.generate import greedy_traces
from tte_runtime.training.loop import autocast, fit, keep
from tte_runtime.training.objectives import TEMPERATURE as TEMPERATURE
from tte_runtime.training.tokens import IGNORED, Encoder, Group, TrainingSequence, pad

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


def embed(model: Qwen2VLForConditionalGeneration, head: HeadModule, items: list[Item], encoder: Encoder) -> Tensor:
    """Vectors of items in the order given, [S, E]; sorted by length inside so that little is padded."""
    return embed_with(model, {"": head}, items, encoder)[""]


def embed_with(
    model: Qwen2VLForConditionalGeneration, heads: Mapping[str, HeadModule], items: list[Item], encoder: Encoder
) -> dict[str, Tensor]:
    """What several heads make of the same items, by the heads' names; the backbone runs once."""
    order = sorted(range(len(items)), key=lambda index: len(items[index].ids))
    vectors: dict[str, list[Tensor]] = {name: [] for name in heads}
    device = model.lm_head.weight.device
    for start in range(0, len(order), GROUP_SIZE):
        chosen = [items[index] for index in order[start : start + GROUP_SIZE]]
        group = pad([TrainingSequence(one.ids, [IGNORED] * len(one.ids), one.features) for one in chosen], encoder)
        states = tapped_states(model, group).float()
        positions, last = group.positions.to(device), (group.lengths - 1).to(device)
        for name, head in heads.items():
            vectors[name].append(head(states, positions, last))
    back = torch.empty(len(order), dtype=torch.int64)
    back[torch.tensor(order)] = torch.arange(len(order))
    return {name: torch.cat(parts)[back.to(device)] for name, parts in vectors.items()}


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


def contrast_share(progress: float) -> float:
    """How much of the loss is InfoNCE at this share of the run; the rest asks for words."""
    return min(max((progress - CONTRAST_JOINS) / (WORDS_END - CONTRAST_JOINS), 0.0), 1.0)


class HeadTraining(nn.Module):
    """What Trainer sees: the parameters of one head or several, and the sum of their losses.

    First lessons: InfoNCE alone, from the start, separates pictures from boards from texts and then stays
    there. So the vector is first asked, directly, for the words that its item stands for; InfoNCE joins in
    and then goes on alone.
    """

    def __init__(
        self, model: Qwen2VLForConditionalGeneration, heads: Mapping[str, HeadModule], encoder: Encoder
    ) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(heads)
        self.by_kind = dict(heads)
        self.encoder = encoder
        # In a tuple, so that the frozen backbone is no part of this module's parameters.
        self.frozen = (model,)
        self.loss = MultipleNegativesRankingLoss(model=nn.Identity(), scale=1 / TEMPERATURE)
        self.seen: dict[str, list[tuple[float, float]]] = {kind: [] for kind in heads}

    def forward(self, contest: Contest) -> dict[str, Tensor]:
        columns = [contest.queries, contest.positives, *contest.negatives]
        items = [item for column in columns for item in column]
        share = contrast_share(contest.progress)
        with autocast(next(self.heads.parameters()).device.type):
            vectors = embed_with(self.frozen[0], self.by_kind, items, self.encoder)
        losses = []
        for kind, own in vectors.items():
            parts = list(own.float().split(len(contest.queries)))
            contrast = self.loss.compute_loss_from_embeddings(parts, torch.empty(0))
            words = word_loss(own.float(), self.frozen[0].get_input_embeddings().weight, items)
            self.seen[kind].append((contrast.item(), words.item()))
            losses.append(share * contrast + (1 - share) * WORD_WEIGHT * words)
        return {"loss": torch.stack(losses).sum()}

    def report(self) -> str:
        """The two losses of every head since the last report, in words."""
        said = []
        for kind, seen in self.seen.items():
            contrast, words = (sum(column) / len(column) for column in zip(*seen, strict=True))
            seen.clear()
            said.append(f"{kind}: contrast {contrast:.3f} words {words:.3f}")
        return "(training) " + ", ".join(said)


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
    kind: str = "decoder_layers",
    rounds: tuple[Round, ...] = ROUNDS,
    batch_size: int,
    seed: int,
) -> HeadModule:
    """Train one head over the frozen model, or load, round by round, what `folder` has finished (head<round>)."""
    lessons = _Lessons(model, bank, encoder, folder, rounds, batch_size, seed)
    return lessons.teach([kind], lambda _: "")[kind]


def train_heads(
    model: Qwen2VLForConditionalGeneration,
    bank: Bank,
    encoder: Encoder,
    folder: Path,
    *,
    kinds: Sequence[str] = tuple(HEADS),
    rounds: tuple[Round, ...] = ROUNDS,
    batch_size: int,
    seed: int,
) -> dict[str, HeadModule]:
    """Train several kinds of head on the same batches; each learns what `train_head` alone would have taught it.

    Finished rounds are kept in `folder` by kind (head<round>.<kind>), and only what is missing is trained.
    """
    lessons = _Lessons(model, bank, encoder, folder, rounds, batch_size, seed)
    return lessons.teach(kinds, lambda kind: f".{kind}")


@dataclass(frozen=True)
class _Lessons:
    """The rounds of a run; arguments as those of `train_head`."""

    model: Qwen2VLForConditionalGeneration
    bank: Bank
    encoder: Encoder
    folder: Path
    rounds: tuple[Round, ...]
    batch_size: int
    seed: int

    def teach(self, kinds: Sequence[str], suffix: Callable[[str], str]) -> dict[str, HeadModule]:
        """Heads by kind, in eval mode. `suffix` tells the files of a kind apart."""
        heads = {kind: self._fresh(kind) for kind in kinds}
        self.model.requires_grad_(False)
        for number in range(len(self.rounds)):
            done = {kind: self.folder / f"head{number}{suffix(kind)}.safetensors" for kind in kinds}
            missing = [kind for kind in kinds if not done[kind].is_file()]
            if missing:
                # The folder is named by who learns in it: a run is gone on with by the same heads only.
                learners = "".join(suffix(kind) for kind in missing)
                self._round(number, {kind: heads[kind] for kind in missing}, self.folder / f"run{number}{learners}")
            for kind in missing:
                keep(heads[kind].state_dict(), done[kind])
            for kind, head in heads.items():
                head.load_state_dict(load_file(done[kind]))
        return {kind: head.eval() for kind, head in heads.items()}

    def _fresh(self, kind: str) -> HeadModule:
        """A head as it begins: a function of kind and seed, whoever else is made before it."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            head = make_reference_head(kind, self.model.config, **HEADS[kind]).to(self.model.device)
        head.initialise_from(self.model.model.language_model)
        return head

    def _round(self, number: int, heads: Mapping[str, HeadModule], run: Path) -> None:
        model, encoder, plan = self.model, self.encoder, self.rounds[number]
        training = HeadTraining(model, heads, encoder)
        contests = Contests(
            self.bank,
            encoder,
            model.model.visual,
            lambda prompts: greedy_traces(model, prompts, encoder, MAX_TRACE_TOKENS),
            self.seed + number,
            self.batch_size,
            plan.steps,
            plan.words_first,
            plan.damage,
        )
        fit(
            f"head, round {number + 1}",
            training,
            contests,
            lambda items: {"contest": items[0]},
            run,
            steps=plan.steps,
            batch_size=1,
            learning_rate=plan.learning_rate,
            seed=self.seed,
            device=model.device.type,
            check=training.report,
            check_every=50,
            clip_apart=list(heads.values()),
        )
