"""What tte-tiny is held against, trained on the same scenes: direct embedders, and the separate embedder of TTE_s.

All are the bundled model's decoder, trained whole and read at the last token. Two never think: *direct* starts where
the reasoner started, from the tower's naming tables, and has never seen a trace; *looped* starts from the finished
reasoner, with its layers run twice, so that it has learnt all that the thinking model has and computes as much. The
third, *embedder*, reads prompt and trace and starts from the reasoner's weights too. Questions, documents, hard
negatives and the loss are the head's (contests.py, lessons.py). Knows nothing of serving (evaluation/arms.py).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen2VLForConditionalGeneration

from tte_runtime.evaluation.arms import read_arm, write_arm
from tte_runtime.training.bank import Bank, make_bank
from tte_runtime.training.blueprint import build_config, build_model, build_tokenizer
from tte_runtime.training.checkpoint import HEADS, MAX_TRACE_TOKENS, round_weights
from tte_runtime.training.contests import Contest, Item
from tte_runtime.training.generate import greedy_traces
from tte_runtime.training.head import train_heads
from tte_runtime.training.lessons import Course, Learner, Lesson, Round, by_length, layer_states, unsupervised
from tte_runtime.training.loop import autocast, keep
from tte_runtime.training.reasoner import ReasonerTraining, adopt_words
from tte_runtime.training.tiny import Plan
from tte_runtime.training.tokens import Encoder, Group, pad
from tte_runtime.training.tower import train_tower

GROUP_SIZE = 64


@dataclass(frozen=True)
class Arm:
    """One embedder: how often its layers run, whether it reads traces and starts from the reasoner, its rounds."""

    loops: int
    traces: bool
    from_reasoner: bool
    rounds: tuple[Round, ...]


# 128,000 questions, as many as the heads see; the separate embedder, whose steps cost most, 99,200.
ARMS = {
    "direct": Arm(1, False, False, (Round(4000, 1e-3, True, 0.0),)),
    "looped": Arm(2, False, True, (Round(2000, 8e-4, True, 0.0), Round(2000, 8e-4, False, 0.0))),
    "embedder": Arm(
        1,
        True,
        True,
        (
            Round(400, 5e-4, True, 1.0),
            Round(400, 4e-4, False, 1.0),
            Round(300, 4e-4, False, 0.3),
            Round(2000, 4e-4, False, 0.3),
        ),
    ),
}


class DecoderEmbedder(nn.Module):
    """A decoder read at the last token: its layers `loops` times, the final norm, L2."""

    def __init__(self, model: Qwen2VLForConditionalGeneration, loops: int) -> None:
        super().__init__()
        self.decoder = model.model.language_model
        self.whole = (model,)  # in a tuple, so that the tower is no part of this module's parameters
        self.loops = loops

    def embed(self, items: list[Item], encoder: Encoder) -> Tensor:
        """L2-normalised vectors of items in the order given, fp32 [S, C]."""
        groups, places = by_length(items, GROUP_SIZE)
        return torch.cat([self._embed(pad(unsupervised(one), encoder)) for one in groups])[places]

    def _embed(self, group: Group) -> Tensor:
        hidden = layer_states(self.whole[0], group, [*self.decoder.layers] * self.loops)
        last = hidden[torch.arange(len(hidden)), group.lengths - 1]
        return F.normalize(self.decoder.norm(last).float(), dim=-1)


class ArmTraining(Learner):
    """What Trainer sees: the decoder's parameters and the loss.

    `table` is the word table of the first lessons, [V, C]; it stays as it was.
    """

    def __init__(self, embedder: DecoderEmbedder, encoder: Encoder, table: Tensor) -> None:
        super().__init__()
        self.embedder = embedder
        self.encoder = encoder
        self.table = table.detach().clone()
        self.lesson = Lesson()

    def forward(self, contest: Contest) -> dict[str, Tensor]:
        with autocast("cpu"):
            vectors = self.embedder.embed(contest.items, self.encoder)
        return {"loss": self.lesson.loss(vectors.float(), self.table, contest)}

    def report(self) -> str:
        """The two losses since the last report, in words."""
        return f"(training) {self.lesson.report()}"


def train_arm(
    name: str,
    start: Qwen2VLForConditionalGeneration,
    reasoner: Qwen2VLForConditionalGeneration,
    bank: Bank,
    encoder: Encoder,
    folder: Path,
    *,
    batch_size: int,
    seed: int,
    rounds: tuple[Round, ...] | None = None,
) -> DecoderEmbedder:
    """Train one arm, or load, round by round, what `folder` has finished.

    Args:
        name: of ARMS.
        start: the weights to start from; they are changed.
        reasoner: the finished reasoner, which writes the traces for an arm that reads them; its tower sees boards.
        rounds: in the stead of the arm's own, for trials.
    """
    arm = ARMS[name]
    embedder = DecoderEmbedder(start, arm.loops).requires_grad_(True)
    training = ArmTraining(embedder, encoder, reasoner.get_input_embeddings().weight)
    write = partial(greedy_traces, reasoner, encoder=encoder, max_tokens=MAX_TRACE_TOKENS) if arm.traces else None
    course = Course(reasoner, bank, encoder, write, batch_size, seed)
    for number, plan in enumerate(rounds or arm.rounds):
        done = folder / f"{name}{number}.safetensors"
        if not done.is_file():
            course.round(name, training, folder / f"{name}-run{number}", number, plan)
            keep(embedder.decoder.state_dict(), done)
        embedder.decoder.load_state_dict(load_file(done))
    return embedder.eval()


def train_arms(out: Path, arms: Path, names: Sequence[str], *, seed: int, batch_size: int = 32) -> None:
    """Train arms beside a finished reasoner, and write what the scenes table takes.

    Args:
        out: of a run of `tte train tiny`; its stages "tower" and "reasoner" must be finished. Rounds are kept in
            stages/arms.
        arms: gets seed<seed>/<name>.npz (evaluation/arms.py), the reasoner's included where it is not the bundled one.
        names: embedders, and kinds of heads, which learn together.
        seed: of starting weights, questions and order. The tower is that of `out`.
    """
    stages, into = out / "stages", arms / f"seed{seed}"
    tokenizer = build_tokenizer()
    encoder = Encoder(tokenizer)
    reasoner = build_model(build_config(tokenizer), seed)
    width = reasoner.config.get_text_config().hidden_size
    naming = train_tower(reasoner.model.visual, width, stages / "tower", seed=seed)
    fresh = copy.deepcopy(reasoner)
    adopt_words(fresh, naming, encoder)
    _load_reasoner(reasoner, stages / "reasoner" / "decoder.safetensors", into / "reasoner.npz", bundled=seed == 0)
    plan = Plan()
    tower, file = reasoner.model.visual, stages / "bank" / "train.safetensors"
    bank = make_bank(tower, file, seed=seed, split="train", scenes=plan.bank_scenes, renderings=plan.bank_renderings)
    for name in [name for name in names if name in ARMS]:
        start = copy.deepcopy(reasoner if ARMS[name].from_reasoner else fresh)
        arm = train_arm(name, start, reasoner, bank, encoder, stages / "arms", batch_size=batch_size, seed=seed)
        write_arm(into / f"{name}.npz", arm.decoder.state_dict())
    kinds = [name for name in names if name in HEADS]
    if kinds:
        heads = train_heads(reasoner, bank, encoder, stages / "arms", kinds=kinds, batch_size=batch_size, seed=seed)
        for kind, head in heads.items():
            write_arm(into / f"{kind}.npz", head.state_dict())


def _load_reasoner(model: Qwen2VLForConditionalGeneration, trained: Path, arm: Path, *, bundled: bool) -> None:
    """The reasoner as it will be served: rounded to bfloat16, and through its file where it is not the bundled one."""
    ReasonerTraining(model).load_state_dict(load_file(trained))
    if not bundled:
        if not arm.is_file():
            write_arm(arm, model.model.language_model.state_dict())
        model.model.language_model.load_state_dict(read_arm(arm))
    round_weights(model)
    model.eval().requires_grad_(False)


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of a run of tte train tiny.")
@click.option("--arms", default="benchmarks/arms", show_default=True, type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Of weights, questions and order.")
@click.argument("names", nargs=-1, type=click.Choice([*ARMS, *HEADS]))
def main(out: Path, arms: Path, seed: int, names: tuple[str, ...]) -> None:
    """Train the arms of the scenes table: about 4 hours of a CPU core a seed, beside the reasoner's 25 minutes."""
    train_arms(out, arms, names or (*ARMS, *HEADS), seed=seed)


if __name__ == "__main__":
    main()
