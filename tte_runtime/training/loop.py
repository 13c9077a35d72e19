"""One way to run a training stage: transformers' Trainer, seeded, resumable, talking on stderr.

Knows nothing of what is trained. A stage gives a module whose forward returns a dict with "loss", a
map-style dataset whose items are pure functions of their index, and a collator.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint

from tte_runtime.errors import OptionError, TrainingError
from tte_runtime.training.finite import REMEDY, check_finite

MAX_GRADIENT_NORM = 1.0


def say(text: str) -> None:
    """One line of progress on stderr."""
    print(text, file=sys.stderr, flush=True)


def check_seed(seed: int) -> None:
    """Let only a seed pass that every generator of random numbers takes; raises OptionError."""
    if not 0 <= seed < 2**32:
        raise OptionError(f"seed must be in 0..{2**32 - 1}, got {seed}.")


def in_words(figures: Mapping[str, float]) -> str:
    """Figures by kind on one line."""
    return " ".join(f"{kind} {value:.4f}" for kind, value in figures.items())


def keep(state: Mapping[str, Tensor], file: Path) -> None:
    """Write a stage's finished weights so that `file` exists only whole: an interrupted write is not a
    result, nor is one with weights that are no numbers.

    Raises:
        TrainingError: some are NaN or infinite.
    """
    check_finite(state, str(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    save_file({key: value.contiguous() for key, value in state.items()}, partial)
    partial.rename(file)


class _Progress(TrainerCallback):
    """Loss, step, speed and time left, on stderr (Trainer's own report goes to stdout, which is for data)."""

    def __init__(self, name: str, check: Callable[[], str] | None, check_every: int) -> None:
        self.name = name
        self.check = check
        self.check_every = check_every
        self.began = time.monotonic()
        self.first_step = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.began, self.first_step = time.monotonic(), state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.check is not None and state.global_step % self.check_every == 0:
            say(f"{self.name}: step {state.global_step} {self.check()}")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        seconds = time.monotonic() - self.began
        left = seconds / max(state.global_step - self.first_step, 1) * (state.max_steps - state.global_step)
        say(
            f"{self.name}: step {state.global_step}/{state.max_steps} loss {float(logs['loss']):.4f} "
            f"lr {float(logs['learning_rate']):.1e} {seconds / 60:.1f} min, {left / 60:.1f} left"
        )


class _ClipApart(TrainerCallback):
    """Clips the gradients of several modules each by its own norm, as if each were trained alone."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = modules

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        for module in self.modules:
            nn.utils.clip_grad_norm_(module.parameters(), MAX_GRADIENT_NORM)


class _InOrder(Trainer):
    """Trainer that takes the items in order: a stage's curriculum is a function of the item's index.

    Its checkpoints hold what is trained; the frozen rest is where it was. A run that diverges is stopped, and does
    not replace its last checkpoint.
    """

    stage = ""  # what errors call it

    def training_step(self, *inputs: Any, **named: Any) -> Tensor:
        """As Trainer's, which would go on after a loss that is no number."""
        loss = super().training_step(*inputs, **named)
        if not math.isfinite(loss.item()):
            raise TrainingError(
                f"{self.stage}: the loss of step {self.state.global_step + 1} is {loss.item()}: the run has diverged. "
                f"States saved before are kept in {self.args.output_dir}. {REMEDY}"
            )
        return loss

    @property
    def trained(self) -> dict[str, Tensor]:
        """The parameters in training, by name."""
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        check_finite(self.trained, f"{self.stage}, step {self.state.global_step}")
        state = self.model.state_dict() if state_dict is None else state_dict
        super()._save(output_dir, {name: state[name] for name in self.trained})

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """What a checkpoint leaves out is frozen, or a second name of something that it holds: nothing to warn of."""
        assert not load_result.unexpected_keys, f"a checkpoint of another model: {load_result.unexpected_keys}"

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)


class IndexDataset(Dataset[Any]):
    """A dataset of `length` items, item i made by `make(i)`: nothing is stored, so a resumed run sees the
    same items.
    """

    def __init__(self, length: int, make: Callable[[int], Any]) -> None:
        self.length = length
        self.make = make

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


def fit(
    name: str,
    model: nn.Module,
    make: Callable[[int], Any],
    collate: Callable[[list[Any]], dict[str, Any]],
    folder: Path,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    accumulate: int = 1,
    warmup_steps: int = 100,
    save_every: int = 200,
    log_every: int = 25,
    device: str = "cpu",
    check: Callable[[], str] | None = None,
    check_every: int = 500,
    clip_apart: Sequence[nn.Module] = (),
) -> None:
    """Train `model` in place for `steps` steps of `accumulate` times `batch_size` items; go on from the last
    checkpoint in `folder` if there is one.

    `check` measures something on held-out data every `check_every` steps and says it in words. `clip_apart` are
    parts of the model, together all of it, whose gradients are clipped each by its own norm.

    Raises:
        TrainingError: the loss, or what was trained, came out NaN or infinite; the last checkpoint is kept.
    """
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulate,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=warmup_steps,
        weight_decay=0.01,
        adam_beta2=0.98,
        max_grad_norm=0.0 if clip_apart else MAX_GRADIENT_NORM,
        seed=seed,
        use_cpu=device == "cpu",
        save_steps=save_every,
        save_total_limit=1,
        logging_steps=log_every,
        logging_nan_inf_filter=False,  # it would log the mean of the losses before in the stead of a NaN
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # Trainer would deal a batch out to all of them, and ours are no tensors to be cut
    trainer = _InOrder(
        model=model,
        args=arguments,
        train_dataset=IndexDataset(steps * batch_size * accumulate, make),
        data_collator=collate,
        callbacks=[_Progress(name, check, check_every), *([_ClipApart(clip_apart)] if clip_apart else [])],
    )
    trainer.stage = name
    # Trainer adds a printer to stdout when tqdm is off; stdout is for data.
    trainer.remove_callback(PrinterCallback)
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if last is not None:
        say(f"{name}: goes on from {last}")
    trainer.train(resume_from_checkpoint=last)
    check_finite(trainer.trained, name)


def autocast(device: str, enabled: bool = True) -> torch.autocast:
    """bfloat16 matrix products, fp32 weights: on CPUs with avx512_bf16 half the time, on others no worse in
    result.
    """
    return torch.autocast(device, torch.bfloat16, enabled=enabled)
