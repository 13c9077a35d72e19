"""What the stages share: options, the order of the data, and a folder that remembers what it is of.

A finished folder is left as it is, an interrupted one goes on, one of other options is refused. Knows no models.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tte_runtime.errors import DatasetError, OptionError
from tte_runtime.training.examples import Entry, Example, data_file
from tte_runtime.training.loop import check_seed, say

RECORD, WORK = "training.json", "run"
MAX_EPOCHS, MAX_STEPS = 10_000, 1_000_000  # far beyond use: a slip of the pen ends at the door, not in years


@dataclass(frozen=True)
class Options:
    """How a stage is trained.

    Attributes:
        epochs: passes over the data.
        batch_size: examples to a step of the optimiser.
        mini_batch: sequences whose activations are held at once: what bounds memory.
        learning_rate: the highest, after a warm-up over `warmup` of the steps; it falls as a cosine.
        lora: (rank, alpha) of an adapter; `None` trains whole weights.
        recompute: activations are computed again in the backward pass rather than kept.
        seed: of the order and of new weights.
        save_every: steps between two states that an interrupted run goes on from.
        device, precision: as `Base.load`.

    Raises:
        OptionError: a value is out of its range.
    """

    epochs: float
    batch_size: int
    mini_batch: int
    learning_rate: float
    lora: tuple[int, int] | None = None
    recompute: bool = False
    warmup: float = 0.03
    seed: int = 0
    save_every: int = 100
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.epochs <= MAX_EPOCHS:
            raise OptionError(f"epochs must be > 0 and at most {MAX_EPOCHS}, got {self.epochs}.")
        if not 0 < self.learning_rate < math.inf:
            raise OptionError(f"learning_rate must be > 0 and finite, got {self.learning_rate}.")
        if not 0 <= self.warmup <= 1:
            raise OptionError(f"warmup must be a share of the steps, in 0..1, got {self.warmup}.")
        check_seed(self.seed)
        for name in ("batch_size", "mini_batch", "save_every"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.lora is not None and min(self.lora) < 1:
            raise OptionError(f"rank and alpha of LoRA must be at least 1, got {self.lora}.")

    def steps(self, count: int) -> int:
        """Steps over `count` examples, at least one; raises OptionError where they are too many."""
        steps = max(1, round(count * self.epochs / self.batch_size))
        if steps > MAX_STEPS:
            raise OptionError(
                f"{self.epochs:g} epochs of {count} examples in batches of {self.batch_size} are {steps} steps, and a "
                f"run has at most {MAX_STEPS}. Give fewer --epochs, or a larger --batch-size."
            )
        return steps

    def fitting(self, steps: int) -> dict[str, Any]:
        """What `fit` is told of them."""
        return {
            "steps": steps,
            "learning_rate": self.learning_rate,
            "warmup_steps": round(steps * self.warmup),
            "save_every": self.save_every,
            "log_every": min(25, max(1, steps // 8)),
            "seed": self.seed,
        }


class Folder:
    """The folder of a run.

    Args:
        out: where the checkpoint goes.
        record: the stage, its base and all else that decides what comes out.

    Raises:
        OptionError: the folder is of another run, holds other things, or its record is broken.
    """

    def __init__(self, out: Path, record: dict[str, Any]) -> None:
        self.out = out
        self.work = out / WORK
        self._record = json.loads(json.dumps(record))
        path = out / RECORD
        if not path.is_file():
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise OptionError(f"--out {out} exists and is no folder of a training run. Give a new folder.")
            return
        found = _read_record(path)
        differs = [key for key in self._record if self._record[key] != found.get(key)]
        if differs:
            said = ", ".join(f"{key} was {found.get(key)!r} and is {self._record[key]!r}" for key in differs)
            raise OptionError(f"--out {out} is of another run: {said}. Give a new folder, or the options of that run.")

    @classmethod
    def of(cls, out: Path, stage: str, base: str, data: Path, options: Options, **more: Any) -> Folder:
        """The folder of a stage with these options; those that only say where and how fast may change in between."""
        free = ("device", "precision", "mini_batch", "recompute", "save_every")
        how = {name: value for name, value in asdict(options).items() if name not in free}
        digest = hashlib.sha256(data_file(data).read_bytes()).hexdigest()
        return cls(out, {"stage": stage, "base": base, "data": digest, **how, **more})

    @property
    def finished(self) -> bool:
        """The checkpoint is there; its recipe is written last."""
        done = (self.out / "tte.json").is_file()
        if done:
            say(f"{self._record['stage']}: {self.out} is finished")
        return done

    def begin(self) -> Path:
        """Take the folder, now that nothing is left to be refused. Returns where the loop may keep its state."""
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / RECORD).write_text(json.dumps(self._record, indent=2) + "\n", encoding="utf-8")
        return self.work

    def finish(self) -> Path:
        """Drop what an interrupted run would have gone on from. Returns the folder."""
        shutil.rmtree(self.work, ignore_errors=True)
        return self.out


def _read_record(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise OptionError(f"{path} is no JSON: {error}. Give a new folder as --out, or delete this one.") from error
    if not isinstance(found, dict):
        raise OptionError(
            f"{path} must be an object, got {type(found).__name__}. Give a new folder as --out, or delete this one."
        )
    return found


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> list[int]:
    order: list[int] = np.random.default_rng([seed, epoch]).permutation(count).tolist()
    return order


def shuffled(count: int, seed: int, index: int) -> int:
    """Item `index` of endless passes over `count`, each in an order of its own."""
    epoch, place = divmod(index, count)
    return _permutation(count, seed, epoch)[place]


def num_negatives(examples: Sequence[Example], wanted: int | None) -> int:
    """How many hard negatives every query is held against: as many as are wanted, or as every line has.

    The loss takes them in columns, an entry of every query in each; what that leaves out is said on stderr.

    Raises:
        DatasetError: a line has fewer than are wanted.
    """
    fewest = min(examples, key=lambda example: len(example.negatives))
    found, line = len(fewest.negatives), fewest.query.place.rpartition(",")[0]
    if wanted is None:
        most = max(len(example.negatives) for example in examples)
        if found < most:
            say(f"{line} has {found} negatives, so every query is held against {found}; others have up to {most}")
        return found
    if wanted > found:
        raise DatasetError(f"{line} has {found} negatives, and {wanted} are asked for. Add some, or ask for fewer.")
    return wanted


def columns_of(examples: Sequence[Example], negatives: int) -> list[list[Entry]]:
    """Queries, positives, and as many lists of negatives."""
    columns: list[list[Entry]] = [[] for _ in range(2 + negatives)]
    for example in examples:
        assert example.positive is not None, "read with positives"
        for column, entry in zip(columns, example.entries, strict=False):
            column.append(entry)
    return columns


def distinct_batches(
    examples: Sequence[Example], negatives: int, size: int, epochs: float, seed: int
) -> list[list[Example]]:
    """Full batches in which no document is right for one query and counted against another.

    In a batch no query, positive or negative stands for two examples; what collides waits for a later batch, and what
    is left at the end of a pass is left out.

    Raises:
        DatasetError: not one batch can be filled.
    """
    contents = [{entry.content for entry in example.entries[: 2 + negatives]} for example in examples]
    batches: list[list[Example]] = []
    for epoch in range(math.ceil(epochs)):
        waiting = deque(_permutation(len(examples), seed, epoch))
        while batch := _distinct(waiting, contents, size):
            batches.append([examples[index] for index in batch])
    batches = batches[: max(1, round(len(batches) * epochs / math.ceil(epochs)))]
    if not batches:
        raise DatasetError(
            f"no batch of {size} examples can be filled without a document that is right for one query and counted "
            f"against another; there are {len(examples)} examples. Give more data, or a smaller --batch-size."
        )
    return batches


def _distinct(waiting: deque[int], contents: Sequence[set[str]], size: int) -> list[int] | None:
    """Take the first `size` that have nothing in common from those that wait; `None` if there are fewer."""
    seen: set[str] = set()
    batch: list[int] = []
    later: list[int] = []
    while waiting and len(batch) < size:
        index = waiting.popleft()
        if seen.isdisjoint(contents[index]):
            seen |= contents[index]
            batch.append(index)
        else:
            later.append(index)
    waiting.extendleft(reversed(later))
    return batch if len(batch) == size else None
