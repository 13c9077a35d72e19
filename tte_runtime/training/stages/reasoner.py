"""`tte train reasoner`: a base learns to write the traces of the data, by their negative log-likelihood.

As the paper's students (arXiv 2510.05014): whole weights but the tower's, learning rate 2e-5, batches of 128, one pass.
Knows files and options; the loss is `objectives.py`'s, the loop `loop.py`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tte_runtime.errors import DatasetError, OptionError
from tte_runtime.training.base import Base, folder_of
from tte_runtime.training.examples import Entry, read_examples
from tte_runtime.training.feeding import Fed, pad
from tte_runtime.training.loop import fit, say
from tte_runtime.training.objectives import ReasonerTraining
from tte_runtime.training.recipes import writing
from tte_runtime.training.stages.run import Folder, Options, shuffled
from tte_runtime.training.states import Batch, see
from tte_runtime.training.written import write_recipe

DEFAULTS = Options(epochs=1.0, batch_size=128, mini_batch=1, learning_rate=2e-5)


def train_reasoner(base: str, data: Path, out: Path, *, recipe: str | None = None, options: Options = DEFAULTS) -> Path:
    """Finetune `base` on the traces of `data` into the folder `out`, which `LocalReasoner` and `Embedder` load.

    Args:
        base: a folder, a bundled checkpoint, or a model id of the hub.
        data: JSONL, or a folder with one.
        recipe: whose prompts and stop token are learnt; by default the base's own, else "reasoner".

    Raises:
        DatasetError: a line is wrong, or none has a trace. OptionError: `out` is of another run. CheckpointError,
        RecipeError: the base cannot be trained so. TrainingError: the run diverged.
    """
    if options.batch_size % options.mini_batch:
        raise OptionError(
            f"a batch of {options.batch_size} is put together from mini-batches of {options.mini_batch}: it must be a "
            "multiple of them. Change --mini-batch."
        )
    folder = Folder.of(out, "reasoner", base, data, options, recipe=recipe)
    if folder.finished:
        return out
    entries = traced_entries(data)
    chosen = writing(folder_of(base), recipe)
    loaded = Base.load(base, device=options.device, precision=options.precision)
    feeder = loaded.feeder(chosen)
    entries = [entry for entry in entries if feeder.thinks(entry)]
    if not entries:
        raise DatasetError(f"recipe {chosen.name!r} thinks on none of the items of {data} that have a trace.")
    steps = options.steps(len(entries))
    feeder.check(entries, to_be_written=True)
    learner = loaded.unfrozen(lora=options.lora, seed=options.seed)
    if options.recompute:
        learner.recompute()

    def collate(rows: list[Fed]) -> dict[str, Any]:
        features = see(loaded.model, [span for row in rows for span in row.media])
        batch = pad(rows)
        return {"batch": Batch(batch.ids, batch.labels, batch.positions, batch.mask, features), "labels": batch.labels}

    say(f"reasoner: {len(entries)} traces, {steps} steps of {options.batch_size}")
    fit(
        "reasoner",
        ReasonerTraining(loaded.model, mixed=loaded.mixed),
        lambda index: feeder.written(entries[shuffled(len(entries), options.seed, index)]),
        collate,
        folder.begin(),
        batch_size=options.mini_batch,
        accumulate=options.batch_size // options.mini_batch,
        device=loaded.model.device.type,
        **options.fitting(steps),
    )
    learner.save(out)
    write_recipe(out, chosen)
    return folder.finish()


def traced_entries(data: Path) -> list[Entry]:
    """Every item of the data that has a trace, once; raises DatasetError where there is none."""
    found: dict[tuple[str, str], Entry] = {}
    for example in read_examples(data, positives=False):
        for entry in example.entries:
            if entry.traced:
                found.setdefault((entry.role, entry.content), entry)
    if not found:
        raise DatasetError(f'no item of {data} has a "trace". Have them written: tte train traces.')
    return list(found.values())
