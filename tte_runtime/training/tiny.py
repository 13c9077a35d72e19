"""The preset that makes tte-tiny: one seeded call, stages that resume where they were stopped.

    python -m tte_runtime.training.tiny --out FOLDER

0 tower: the vision tower learns to name; 1 traces: the teacher writes; 2 reasoner: the decoder learns to
think; 3 head: the frozen backbone's states become vectors; then the checkpoint is written. Each stage keeps
its results in FOLDER/stages/<stage> and is skipped when they are there. Knows the order and the sizes; each
stage knows itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch

from tte_runtime.errors import OptionError
from tte_runtime.training.bank import Bank, make_bank
from tte_runtime.training.blueprint import build_config, build_model, build_tokenizer
from tte_runtime.training.checkpoint import round_weights, write_checkpoint
from tte_runtime.training.head import ROUNDS as HEAD_ROUNDS
from tte_runtime.training.head import Round as HeadRound
from tte_runtime.training.head import train_head
from tte_runtime.training.loop import say
from tte_runtime.training.reasoner import train_reasoner
from tte_runtime.training.tokens import Encoder
from tte_runtime.training.tower import ROUNDS, Round, train_tower
from tte_runtime.training.traces import write_traces

STAGES = ("tower", "traces", "reasoner", "head", "checkpoint")


@dataclass(frozen=True)
class Plan:
    """The sizes of a run; the defaults are tte-tiny's."""

    tower_rounds: tuple[Round, ...] = field(default=ROUNDS)
    tower_batch: int = 32
    bank_scenes: int = 16000
    bank_renderings: int = 30
    held_out_scenes: int = 2000
    reasoner_steps: int = 2600
    reasoner_rows: int = 12
    head_rounds: tuple[HeadRound, ...] = field(default=HEAD_ROUNDS)
    head_questions: int = 32
    tower_checks: int = 600
    reasoner_checks: int = 200


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
        stages: which to run; one that is left out must be finished already.
        device: "auto" takes a GPU when there is one.
        plan: sizes; smaller ones make a quick trial, not the bundled model.

    Raises:
        OptionError: an unknown stage.
    """
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise OptionError(
            f"unknown stages {unknown}: a stage is one of {', '.join(STAGES)}. Leave `stages` out for all."
        )
    plan = plan or Plan()
    where = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu" if device == "auto" else device
    work = Path(out) / "stages"
    tokenizer = build_tokenizer()
    encoder = Encoder(tokenizer)
    config = build_config(tokenizer)
    model = build_model(config, seed).to(where)

    def run(stage: str, action: Callable[[], Any], finished: Path) -> Any:
        if stage not in stages and not finished.is_file():
            raise OptionError(f"stage {stage!r} was left out but {finished} is not there. Run it first, or include it.")
        began = time.monotonic()
        result = action()
        say(f"{stage}: {(time.monotonic() - began) / 60:.1f} min")
        return result

    def banks() -> tuple[Bank, Bank]:
        tower = model.model.visual
        size = {"seed": seed, "scenes": plan.bank_scenes, "renderings": plan.bank_renderings}
        train = make_bank(tower, work / "bank" / "train.safetensors", split="train", **size)
        size = {"seed": seed, "scenes": plan.held_out_scenes, "renderings": 4}
        return train, make_bank(tower, work / "bank" / "test.safetensors", split="test", **size)

    naming = run(
        "tower",
        lambda: train_tower(
            model.model.visual,
            config.text_config.hidden_size,
            work / "tower",
            rounds=plan.tower_rounds,
            batch_size=plan.tower_batch,
            seed=seed,
            device=where,
            check_examples=plan.tower_checks,
        ),
        work / "tower" / f"tower{len(plan.tower_rounds) - 1}.safetensors",
    )
    run(
        "traces",
        lambda: write_traces(work / "traces" / "traces.jsonl", seed=seed),
        work / "traces" / "traces.jsonl",
    )
    if not {"reasoner", "head", "checkpoint"} & set(stages):
        return Path(out) / "tte-tiny"
    bank, held_out = banks()
    run(
        "reasoner",
        lambda: train_reasoner(
            model,
            naming,
            bank,
            held_out,
            encoder,
            work / "reasoner",
            steps=plan.reasoner_steps,
            batch_size=plan.reasoner_rows,
            seed=seed,
            check_count=plan.reasoner_checks,
        ),
        work / "reasoner" / "decoder.safetensors",
    )
    if not {"head", "checkpoint"} & set(stages):
        return Path(out) / "tte-tiny"
    round_weights(model)
    head = run(
        "head",
        lambda: train_head(
            model,
            bank,
            encoder,
            work / "head",
            rounds=plan.head_rounds,
            batch_size=plan.head_questions,
            seed=seed,
        ),
        work / "head" / f"head{len(plan.head_rounds) - 1}.safetensors",
    )
    if "checkpoint" in stages:
        write_checkpoint(Path(out) / "tte-tiny", model, tokenizer, head)
    return Path(out) / "tte-tiny"


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@click.option("--seed", default=0, show_default=True, help="Seed of weights, scenes and order.")
@click.option("--stage", "stages", multiple=True, type=click.Choice(STAGES), help="Only these stages (repeatable).")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, or auto.")
def main(out: Path, seed: int, stages: tuple[str, ...], device: str) -> None:
    """Train the bundled model tte-tiny from nothing (an hour and a half on two CPU cores)."""
    say(f"checkpoint: {train_tiny(out, seed=seed, stages=stages or STAGES, device=device)}")


if __name__ == "__main__":
    main()
