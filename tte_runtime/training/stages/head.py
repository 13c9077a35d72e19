"""`tte train head`: a head learns to read the states of a frozen reasoner, by InfoNCE (TTE_u).

As the paper's best (arXiv 2510.05014): a copy of the last 8 decoder layers over the states 8 layers before the end;
the other kinds of head are there too. Knows files and options; heads are `heads/`'s, the loss is `objectives.py`'s, the
loop `loop.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tte_runtime.errors import OptionError
from tte_runtime.heads.reference import WEIGHTS, HeadModule, make_reference_head
from tte_runtime.heads.spec import sizes_of
from tte_runtime.training.base import Base, folder_of
from tte_runtime.training.finite import check_finite
from tte_runtime.training.recipes import unified
from tte_runtime.training.stages.contrast import Lessons
from tte_runtime.training.stages.run import Folder, Options
from tte_runtime.training.vectors import Vectors
from tte_runtime.training.written import write_recipe

DEFAULTS = Options(epochs=1.0, batch_size=8192, mini_batch=16, learning_rate=1e-4)
BEFORE_THE_END = 8  # layers that the head stands for


def train_head(
    base: str,
    data: Path,
    out: Path,
    *,
    kind: str = "decoder_layers",
    sizes: Mapping[str, Any] | None = None,
    tap_layer: int | None = None,
    recipe: str | None = None,
    negatives: int | None = None,
    options: Options = DEFAULTS,
) -> Path:
    """Train a head on `base`, a finished reasoner, into the folder `out`, which `Embedder.from_pretrained` loads.

    Args:
        base: a folder, a bundled checkpoint, or a model id of the hub. Its weights are in `out` as they were.
        data: JSONL, or a folder with one.
        kind: of the head: decoder_layers, attention_pooler, latent_attention or qformer.
        sizes: fields of its kind in `heads/spec.py`; the layers of decoder_layers are by default 8, or half of the
            backbone's if it has fewer than 16.
        tap_layer: the head reads the states after so many layers; by default as many before the end.
        recipe: as for `train_reasoner`; by default what the base says.
        negatives: hard negatives a query; by default as many as every line has.

    Raises:
        DatasetError: a line is wrong, or there are too few. OptionError: `out` is of another run, or the backbone has
        no such layer. CheckpointError, RecipeError: the base cannot be trained so, or no head is of such sizes.
        TrainingError: the run diverged.
    """
    more = {"kind": kind, "sizes": dict(sizes or {}), "tap": tap_layer, "recipe": recipe, "negatives": negatives}
    folder = Folder.of(out, "head", base, data, options, **more)
    if folder.finished:
        return out
    lessons = Lessons.read(data, negatives, options)
    chosen = unified(folder_of(base), recipe)
    loaded = Base.load(base, device=options.device, precision=options.precision)
    head, entry = _head(loaded, kind, dict(sizes or {}), tap_layer, options.seed)
    feeder = loaded.feeder(chosen)
    feeder.check(lessons.entries)
    vectors = Vectors(loaded.model, feeder, mixed=loaded.mixed, head=head, tap_layer=entry["tap_layer"])
    lessons.teach("head", head, vectors, folder.begin(), options)
    check_finite({name: weight.to(loaded.stored) for name, weight in head.state_dict().items()}, f"the head of {out}")
    loaded.save(out)
    head.save(out, loaded.stored)
    write_recipe(out, chosen, entry)
    return folder.finish()


def _head(
    base: Base, kind: str, sizes: dict[str, Any], tap_layer: int | None, seed: int
) -> tuple[HeadModule, dict[str, Any]]:
    """A head as it begins, a function of the seed and the base, and its entry in `tte.json`."""
    decoder, config = base.model.get_decoder(), base.model.config
    depth = len(decoder.layers)
    if kind == "decoder_layers":
        sizes.setdefault("num_layers", min(BEFORE_THE_END, depth // 2))
    checked = asdict(sizes_of(kind, sizes, config.get_text_config().hidden_size))
    copied = checked["num_layers"] if kind == "decoder_layers" else min(BEFORE_THE_END, depth // 2)
    tap = depth - copied if tap_layer is None else tap_layer
    if copied > depth or not 0 <= tap <= depth:
        raise OptionError(f"the backbone has {depth} layers: a head of {copied} at tap layer {tap} does not fit it.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = make_reference_head(kind, config, **checked).to(base.model.device)
    head.initialise_from(decoder)
    return head, {"kind": kind, **checked, "tap_layer": tap, "weights": WEIGHTS}
