"""Stage 3: the embedding head learns to read the frozen backbone's states, by InfoNCE at temperature 0.02,
question -> document.

The loss is that of lessons.py; the head starts as a copy of the backbone's last layers. Knows nothing of how traces
are written; it sees the states of given ones. Several kinds of head can learn in one run: the frozen backbone's states,
the costly part, are computed once, and each head learns what it would alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Qwen2VLForConditionalGeneration

from tte_runtime.heads.reference import HeadModule, ReferenceHead, make_reference_head
from tte_runtime.training.bank import Bank
from tte_runtime.training.checkpoint import HEADS, MAX_TRACE_TOKENS, TAP_LAYER
from tte_runtime.training.contests import Contest, Item
from tte_runtime.training.generate import greedy_traces
from tte_runtime.training.lessons import Course, Learner, Lesson, Round, by_length, layer_states, unsupervised
from tte_runtime.training.loop import autocast, keep
from tte_runtime.training.tokens import Encoder, Group, pad

GROUP_SIZE = 32


@torch.no_grad()
def tapped_states(model: Qwen2VLForConditionalGeneration, group: Group) -> Tensor:
    """States after the tap layer of a padded group, [S, T, C]; only the layers below the tap are run."""
    return layer_states(model, group, model.model.language_model.layers[:TAP_LAYER])


def embed(model: Qwen2VLForConditionalGeneration, head: HeadModule, items: list[Item], encoder: Encoder) -> Tensor:
    """Vectors of items in the order given, [S, E]; sorted by length inside so that little is padded."""
    return embed_with(model, {"": head}, items, encoder)[""]


def embed_with(
    model: Qwen2VLForConditionalGeneration, heads: Mapping[str, HeadModule], items: list[Item], encoder: Encoder
) -> dict[str, Tensor]:
    """What several heads make of the same items, by the heads' names; the backbone runs once."""
    groups, places = by_length(items, GROUP_SIZE)
    vectors: dict[str, list[Tensor]] = {name: [] for name in heads}
    device = model.lm_head.weight.device
    for one in groups:
        group = pad(unsupervised(one), encoder)
        states = tapped_states(model, group).float()
        positions, last = group.positions.to(device), (group.lengths - 1).to(device)
        for name, head in heads.items():
            vectors[name].append(head(states, positions, last))
    return {name: torch.cat(parts)[places.to(device)] for name, parts in vectors.items()}


class HeadTraining(Learner):
    """What Trainer sees: the parameters of one head or several, and the sum of their losses."""

    def __init__(
        self, model: Qwen2VLForConditionalGeneration, heads: Mapping[str, HeadModule], encoder: Encoder
    ) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(heads)
        self.by_kind = dict(heads)
        self.encoder = encoder
        # In a tuple, so that the frozen backbone is no part of this module's parameters.
        self.frozen = (model,)
        self.lessons = {kind: Lesson() for kind in heads}

    def forward(self, contest: Contest) -> dict[str, Tensor]:
        with autocast(next(self.heads.parameters()).device.type):
            vectors = embed_with(self.frozen[0], self.by_kind, contest.items, self.encoder)
        table = self.frozen[0].get_input_embeddings().weight
        losses = [self.lessons[kind].loss(own.float(), table, contest) for kind, own in vectors.items()]
        return {"loss": torch.stack(losses).sum()}

    def report(self) -> str:
        """The two losses of every head since the last report, in words."""
        return "(training) " + ", ".join(f"{kind}: {lesson.report()}" for kind, lesson in self.lessons.items())


# What a damaged trace no longer says cannot be learnt; most of the loss in the end is that. The last rounds have less
# of it, and learn the small differences between boards. 126,400 questions in all, as many as the other arms see.
ROUNDS = (
    Round(600, 1e-3, True, 1.0, "last"),
    Round(750, 8e-4, False, 1.0, "last"),
    Round(600, 8e-4, False, 0.3, "last"),
    Round(2000, 8e-4, False, 0.3, "last"),
)
# What a kind learns behind these. The terminal token of three layers over frozen states gathers a whole board no better
# with more practice; the mean of all tokens does (docs/log.md).
OWN_ROUNDS = {"decoder_layers": (Round(1600, 8e-4, False, 0.3, "mean"),)}


def rounds_of(kind: str) -> tuple[Round, ...]:
    """All rounds of a kind of head."""
    return ROUNDS + OWN_ROUNDS.get(kind, ())


def train_head(
    model: Qwen2VLForConditionalGeneration,
    bank: Bank,
    encoder: Encoder,
    folder: Path,
    *,
    kind: str = "decoder_layers",
    rounds: tuple[Round, ...] | None = None,
    batch_size: int,
    seed: int,
) -> HeadModule:
    """Train one head over the frozen model, or load, round by round, what `folder` has finished (head<round>).

    `rounds`: in the stead of the kind's own, for trials.
    """
    lessons = _Lessons(model, bank, encoder, folder, rounds, batch_size, seed)
    return lessons.teach([kind], lambda _: "")[kind]


def train_heads(
    model: Qwen2VLForConditionalGeneration,
    bank: Bank,
    encoder: Encoder,
    folder: Path,
    *,
    kinds: Sequence[str] = tuple(HEADS),
    rounds: tuple[Round, ...] | None = None,
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
    rounds: tuple[Round, ...] | None
    batch_size: int
    seed: int

    def teach(self, kinds: Sequence[str], suffix: Callable[[str], str]) -> dict[str, HeadModule]:
        """Heads by kind, in eval mode. `suffix` tells the files of a kind apart."""
        heads = {kind: self._fresh(kind) for kind in kinds}
        plans = {kind: self.rounds or rounds_of(kind) for kind in kinds}
        self.model.requires_grad_(False)
        for number in range(max(map(len, plans.values()))):
            present = [kind for kind in kinds if number < len(plans[kind])]
            done = {kind: self.folder / f"head{number}{suffix(kind)}.safetensors" for kind in present}
            missing = [kind for kind in present if not done[kind].is_file()]
            if missing:
                # The folder is named by who learns in it: a run is gone on with by the same heads only.
                run = self.folder / f"run{number}{''.join(suffix(kind) for kind in missing)}"
                self._round(number, plans[missing[0]][number], {kind: heads[kind] for kind in missing}, run)
            for kind in missing:
                keep(heads[kind].state_dict(), done[kind])
            for kind in present:
                heads[kind].load_state_dict(load_file(done[kind]))
        return {kind: head.eval() for kind, head in heads.items()}

    def _fresh(self, kind: str) -> HeadModule:
        """A head as it begins: a function of kind and seed, whoever else is made before it."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            head = make_reference_head(kind, self.model.config, **HEADS[kind]).to(self.model.device)
        head.initialise_from(self.model.model.language_model)
        return head

    def _round(self, number: int, plan: Round, heads: Mapping[str, HeadModule], run: Path) -> None:
        for head in heads.values():
            if isinstance(head, ReferenceHead):
                head.readout = plan.readout
        write = partial(greedy_traces, self.model, encoder=self.encoder, max_tokens=MAX_TRACE_TOKENS)
        course = Course(self.model, self.bank, self.encoder, write, self.batch_size, self.seed)
        training = HeadTraining(self.model, heads, self.encoder)
        course.round("head", training, run, number, plan, clip_apart=list(heads.values()))
