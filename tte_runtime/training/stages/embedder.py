"""`tte train embedder`: a base learns to embed the data, with the traces where there are some, by InfoNCE.

As the paper's (arXiv 2510.05014): temperature 0.02, query to document, LoRA of rank 16 and alpha 64, batches of 8192 by
gradient caching, one pass. Knows files and options; the loss is `objectives.py`'s, the loop `loop.py`'s.
"""

from __future__ import annotations

from pathlib import Path

from tte_runtime.training.base import Base, folder_of
from tte_runtime.training.recipes import reading
from tte_runtime.training.stages.contrast import Lessons
from tte_runtime.training.stages.run import Folder, Options
from tte_runtime.training.vectors import Vectors
from tte_runtime.training.written import write_recipe

DEFAULTS = Options(epochs=1.0, batch_size=8192, mini_batch=16, learning_rate=1e-4, lora=(16, 64))


def train_embedder(
    base: str,
    data: Path,
    out: Path,
    *,
    recipe: str | None = None,
    negatives: int | None = None,
    options: Options = DEFAULTS,
) -> Path:
    """Train `base` as an embedder into the folder `out`, which `Embedder.from_pretrained` loads.

    Args:
        base: a folder, a bundled checkpoint, or a model id of the hub.
        data: JSONL, or a folder with one.
        recipe: how it embeds; by default as TTE_s, with the base's own prompts.
        negatives: hard negatives a query; by default as many as every line has.

    Raises:
        DatasetError: a line is wrong, or there are too few. OptionError: `out` is of another run. CheckpointError,
        RecipeError: the base cannot be trained so. TrainingError: the run diverged.
    """
    folder = Folder.of(out, "embedder", base, data, options, recipe=recipe, negatives=negatives)
    if folder.finished:
        return out
    lessons = Lessons.read(data, negatives, options)
    chosen = reading(folder_of(base), recipe)
    loaded = Base.load(base, device=options.device, precision=options.precision)
    feeder = loaded.feeder(chosen)
    feeder.check(lessons.entries)
    vectors = Vectors(loaded.model, feeder, mixed=loaded.mixed)
    learner = loaded.unfrozen(lora=options.lora, seed=options.seed)
    if options.recompute:
        learner.recompute()
    lessons.teach("embedder", loaded.model.get_decoder(), vectors, folder.begin(), options)
    learner.save(out)
    write_recipe(out, chosen)
    return folder.finish()
