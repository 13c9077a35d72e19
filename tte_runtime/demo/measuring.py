"""The three ways that the demo times: the runtime, and plain transformers in two passes and in one.

Knows how to set each of them up so that the comparison is fair; the clock and the parity check are
`tte_runtime.evaluation.compare`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tqdm.auto import tqdm

from tte_runtime.embedder import Embedder
from tte_runtime.evaluation.compare import Arm, Comparison, compare
from tte_runtime.evaluation.plain import PlainEmbedder

OURS, TWO_PASSES, ONE_PASS = "tte-runtime", "transformers, two passes", "transformers, one pass"
CONDITIONS = (
    "one question at a time, with thinking, from picture and text to the vector; all three get the same "
    "pictures and weights, greedy traces, {dtype}, {threads}; transformers in eval and inference mode with sdpa "
    "attention; the runtime's prefix and picture caches are emptied before every question, so nothing is won by caching"
)


def compare_with_plain(
    embedder: Embedder, model: str, items: Sequence[Any], *, repetitions: int, progress: bool
) -> Comparison:
    """Check parity and time the queries `items` on the loaded embedder and on plain transformers.

    Args:
        embedder: loaded from `model`, nothing in work.
        model: what to load into transformers.
        items: queries.
        repetitions: timed rounds.
        progress: a bar on stderr.

    Raises:
        CheckpointError, OptionError: as `Embedder.from_pretrained` and `compare`.
    """
    config = embedder.config
    plain = PlainEmbedder.from_pretrained(model, recipe=embedder.recipe, device=config.device, dtype=config.torch_dtype)
    arms = [
        Arm(OURS, lambda item: embedder.embed(item, role="query", think=True), embedder.clear_caches),
        Arm(TWO_PASSES, lambda item: plain.embed(item, role="query", think=True, passes="two")),
        Arm(ONE_PASS, lambda item: plain.embed(item, role="query", think=True, passes="one")),
    ]
    total = len(arms) * len(items) * (repetitions + 1)
    with tqdm(total=total, disable=not progress, unit="query", desc="comparing") as bar:
        return compare(arms, items, repetitions=repetitions, on_item=bar.update)
