"""`tte train head`: a head learns to read the states of a frozen reasoner, by InfoNCE (TTE_u).

As the paper's (arXiv 2510.05014): a copy of the last 8 decoder layers over the states 8 layers before the end. Knows
files and options; heads are `heads/`'s, the loss is `objectives.py`'s, the loop `loop.py`'s.
"""

from __future__ import annotations

from pathlib import Path

from tte_runtime.errors import OptionError
from tte_runtime.heads.reference import WEIGHTS, ReferenceHead
from tte_runtime.training.base import Base, write_recipe
from tte_runtime.training.examples import read_examples
from tte_runtime.training.loop import fit, say
from tte_runtime.training.objectives import Contrast
from tte_runtime.training.recipes import unified
from tte_runtime.training.stages.run import Folder, Options, columns_of, distinct_batches, num_negatives
from tte_runtime.training.vectors import Vectors

DEFAULTS = Options(epochs=1.0, batch_size=8192, mini_batch=16, learning_rate=1e-4)
NUM_LAYERS = 8


def train_head(
    base: str,
    data: Path,
    out: Path,
    *,
    num_layers: int | None = None,
    tap_layer: int | None = None,
    recipe: str | None = None,
    negatives: int | None = None,
    options: Options = DEFAULTS,
) -> Path:
    """Train a head on `base`, a finished reasoner, into the folder `out`, which `Embedder.from_pretrained` loads.

    Args:
        base: a folder, a bundled checkpoint, or a model id of the hub. Its weights are in `out` as they were.
        data: JSONL, or a folder with one.
        num_layers: of the head; by default 8, or half of the backbone's if it has fewer than 16.
        tap_layer: the head reads the states after so many layers; by default `num_layers` before the end.
        recipe: as for `train_reasoner`; by default what the base says.
        negatives: hard negatives a query; by default as many as every line has.

    Raises:
        DatasetError: a line is wrong, or there are too few. OptionError: `out` is of another run, or the backbone has
        no such layers. CheckpointError, RecipeError: the base cannot be trained so.
    """
    more = {"num_layers": num_layers, "tap_layer": tap_layer, "recipe": recipe, "negatives": negatives}
    folder = Folder.of(out, "head", base, data, options, **more)
    if folder.finished:
        return out
    examples = read_examples(data, positives=True)
    hard = num_negatives(examples, negatives)
    batches = distinct_batches(examples, hard, options.batch_size, options.epochs, options.seed)
    loaded = Base.load(base, device=options.device, precision=options.precision)
    chosen = unified(loaded.checkpoint.folder, recipe)
    decoder = loaded.model.get_decoder()
    count, tap = _layers(len(decoder.layers), num_layers, tap_layer)
    head = ReferenceHead(loaded.model.config, count).to(loaded.model.device)
    head.initialise_from(decoder)
    vectors = Vectors(loaded.model, loaded.feeder(chosen), mixed=loaded.mixed, head=head, tap_layer=tap)
    say(f"head: {len(batches)} steps of {options.batch_size} queries, {hard} hard negatives each")
    say(f"head: {vectors.traced(examples)}")
    fit(
        "head",
        Contrast(head, vectors.embed, options.mini_batch),
        lambda index: batches[index],
        lambda items: {"columns": columns_of(items[0], hard)},
        folder.begin(),
        batch_size=1,
        device=loaded.model.device.type,
        **options.fitting(len(batches)),
    )
    loaded.save(out)
    head.save(out, loaded.stored)
    entry = {"kind": "decoder_layers", "num_layers": count, "tap_layer": tap, "weights": WEIGHTS}
    write_recipe(out, chosen, entry)
    return folder.finish()


def _layers(depth: int, num_layers: int | None, tap_layer: int | None) -> tuple[int, int]:
    """Layers of the head, and the layer of the backbone whose states it reads."""
    count = min(NUM_LAYERS, depth // 2) if num_layers is None else num_layers
    if not 1 <= count <= depth:
        raise OptionError(f"--layers must be in 1..{depth}, the backbone's own, got {count}.")
    tap = depth - count if tap_layer is None else tap_layer
    if not 0 <= tap <= depth:
        raise OptionError(f"--tap must be in 0..{depth}, the backbone's layers, got {tap}.")
    return count, tap
