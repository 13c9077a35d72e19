"""The preset that makes tte-tiny: one seeded call, stages that resume where they were stopped.

    python -m tte_runtime.training.tiny --out FOLDER

0 tower: the vision tower learns to name; 1 traces: the teacher writes; 2 reasoner: the decoder learns to
think; 3 head: the frozen backbone's states become vectors; then the checkpoint is written. Each stage keeps
its results in FOLDER/stages/<stage> and is skipped when they are there. Knows the order and the sizes; each
stage knows itself.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from tte_runtime.config import resolve_device
from tte_runtime.errors import OptionError
from tte_runtime.heads.reference import HeadModule
from tte_runtime.scenes.split import Split
from tte_runtime.training.bank import Bank, make_bank
from tte_runtime.training.blueprint import build_config, build_model, build_tokenizer
from tte_runtime.training.checkpoint import round_weights, write_checkpoint
from tte_runtime.training.head import rounds_of, train_head
from tte_runtime.training.lessons import Round as HeadRound
from tte_runtime.training.loop import check_seed, say
from tte_runtime.training.reasoner import train_reasoner
from tte_runtime.training.tokens import Encoder
from tte_runtime.training.tower import ROUNDS, NamingTower, Round, train_tower
from tte_runtime.training.traces import write_traces

HELD_OUT_RENDERINGS = 4
STAGES = ("tower", "traces", "reasoner", "head", "checkpoint")


@dataclass(frozen=True)
class Plan:
    """The sizes of a run; the defaults are tte-tiny's."""

    tower_rounds: tuple[Round, ...] = field(default=ROUNDS)
    tower_batch: int = 32
    bank_scenes: int = 16000
    bank_renderings: int = 30
    held_out_scenes: int = 2000
    reasoner_steps: int = 6000
    reasoner_rows: int = 12
    head_rounds: tuple[HeadRound, ...] = field(default=rounds_of("decoder_layers"))
    head_questions: int = 32
    tower_checks: int = 600
    reasoner_checks: int = 200


class _Run:
    """One run of the preset: the model in the making, and each stage with the file that says it is finished."""

    def __init__(self, out: Path, seed: int, stages: Sequence[str], device: str, plan: Plan) -> None:
        self.work = out / "stages"
        self.seed, self.stages, self.device, self.plan = seed, stages, device, plan
        self.tokenizer = build_tokenizer()
        self.encoder = Encoder(self.tokenizer)
        self.model = build_model(build_config(self.tokenizer), seed).to(device)

    def stage(self, name: str, finished: Path) -> contextlib.AbstractContextManager[None]:
        """Refuse a stage that is neither wanted nor finished; say how long it took."""
        if name not in self.stages and not finished.is_file():
            raise OptionError(f"stage {name!r} was left out but {finished} is not there. Run it first, or include it.")
        return _timed(name)

    def tower(self) -> NamingTower:
        folder = self.work / "tower"
        with self.stage("tower", folder / f"tower{len(self.plan.tower_rounds) - 1}.safetensors"):
            return train_tower(
                self.model.model.visual,
                self.model.config.get_text_config().hidden_size,
                folder,
                rounds=self.plan.tower_rounds,
                batch_size=self.plan.tower_batch,
                seed=self.seed,
                device=self.device,
                check_examples=self.plan.tower_checks,
            )

    def traces(self) -> None:
        file = self.work / "traces" / "traces.jsonl"
        with self.stage("traces", file):
            write_traces(file, seed=self.seed)

    def bank(self, split: Split) -> Bank:
        scenes = self.plan.bank_scenes if split == "train" else self.plan.held_out_scenes
        renderings = self.plan.bank_renderings if split == "train" else HELD_OUT_RENDERINGS
        file = self.work / "bank" / f"{split}.safetensors"
        tower = self.model.model.visual
        return make_bank(tower, file, seed=self.seed, split=split, scenes=scenes, renderings=renderings)

    def reasoner(self, naming: NamingTower, bank: Bank) -> None:
        folder = self.work / "reasoner"
        with self.stage("reasoner", folder / "decoder.safetensors"):
            train_reasoner(
                self.model,
                naming,
                bank,
                self.bank("test"),
                self.encoder,
                folder,
                steps=self.plan.reasoner_steps,
                batch_size=self.plan.reasoner_rows,
                seed=self.seed,
                check_count=self.plan.reasoner_checks,
            )

    def head(self, bank: Bank) -> HeadModule:
        folder = self.work / "head"
        with self.stage("head", folder / f"head{len(self.plan.head_rounds) - 1}.safetensors"):
            return train_head(
                self.model,
                bank,
                self.encoder,
                folder,
                rounds=self.plan.head_rounds,
                batch_size=self.plan.head_questions,
                seed=self.seed,
            )


@contextlib.contextmanager
def _timed(name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    say(f"{name}: {(time.monotonic() - began) / 60:.1f} min")


def train_tiny(
    out: str | Path,
    *,
    seed: int = 0,
    stages: Sequence[str] = STAGES,
    device: str = "auto",
    plan: Plan | None = None,
) -> Path:
    """Train tte-tiny from nothing and return the checkpoint's folder, `out`/tte-tiny.

    Args:
        out: folder of the run; stages already finished there are taken as they are, interrupted ones go on.
        seed: of weights, scenes, questions and order.
        stages: which to run; an earlier one that is left out must be finished already.
        device: "auto" takes a GPU when there is one.
        plan: sizes; smaller ones make a quick trial, not the bundled model.

    Raises:
        OptionError: an unknown stage, or one left out that a later one needs; a seed out of range; no such device.
    """
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise OptionError(
            f"unknown stages {unknown}: a stage is one of {', '.join(STAGES)}. Leave `stages` out for all."
        )
    check_seed(seed)
    device = resolve_device(device)
    folder = Path(out) / "tte-tiny"
    last = max((STAGES.index(stage) for stage in stages), default=-1)
    run = _Run(Path(out), seed, stages, device, plan or Plan())
    naming = run.tower()
    if last >= STAGES.index("traces"):
        run.traces()
    if last >= STAGES.index("reasoner"):
        bank = run.bank("train")
        run.reasoner(naming, bank)
    if last >= STAGES.index("head"):
        round_weights(run.model)
        head = run.head(bank)
    if last >= STAGES.index("checkpoint"):
        write_checkpoint(folder, run.model, run.tokenizer, head)
    return folder


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@click.option("--seed", default=0, show_default=True, help="Seed of weights, scenes and order.")
@click.option("--stage", "stages", multiple=True, type=click.Choice(STAGES), help="Only these stages (repeatable).")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, or auto.")
def main(out: Path, seed: int, stages: tuple[str, ...], device: str) -> None:
    """Train the bundled model tte-tiny from nothing (about two hours on a CPU core)."""
    say(f"checkpoint: {train_tiny(out, seed=seed, stages=stages or STAGES, device=device)}")


if __name__ == "__main__":
    main()
