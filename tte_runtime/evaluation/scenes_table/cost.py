"""What a question costs in each system: milliseconds alone and from empty caches, tokens, operations, parameters.

All systems are loaded at once and take turns question by question, so that a machine that grows slow grows slow for
all. The teacher of TTE_t is no model here: its row is the embedder's part alone. Knows embedders, counts and tensors'
names; knows nothing of what is right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from tte_runtime.embedder import Embedder
from tte_runtime.evaluation.compare import Arm, take_turns
from tte_runtime.evaluation.scenes import Test
from tte_runtime.evaluation.scenes_table.asking import question_items
from tte_runtime.evaluation.scenes_table.systems import Probe
from tte_runtime.types import Counts, Result

WARM_UP = 3  # questions before the clock counts
PATCHES = 4  # of the tower, to a token of the picture: two by two are merged


@dataclass(frozen=True)
class Cost:
    """Of one row.

    Attributes:
        ms: of every question, in the same order for all rows.
        trace, computed, cached, head, vision: tokens a question, the mean, as `Counts` has them; of reasoner and
            embedder together where there are two.
        mflop: million operations a question, the mean, by `operations`.
    """

    ms: list[float]
    trace: float
    computed: float
    cached: float
    head: float
    vision: float
    mflop: float


@dataclass(frozen=True)
class Sizes:
    """Elements of a checkpoint's matrices that one token goes through.

    Attributes:
        layers: all decoder layers. output: from the last state to the words. head: the embedding head.
        blocks: the tower's, for a patch. merger: the tower's, for a token.
    """

    layers: int
    output: int
    head: int
    blocks: int
    merger: int

    @classmethod
    def of(cls, folder: Path) -> Sizes:
        """Counted in the checkpoint's files; vectors (norms, biases) are no matrices."""
        found = dict.fromkeys(("layers", "output", "head", "blocks", "merger"), 0)
        for file, tensors in _tensors(folder):
            for name, tensor in tensors.items():
                part = "head" if file.startswith("head") else _part(name)
                if part == "output":
                    found[part] = max(found[part], tensor.numel())  # tied words may be written twice
                elif part is not None and tensor.dim() > 1:
                    found[part] += tensor.numel()
        return cls(**found)

    def operations(self, counts: Counts) -> float:
        """Two for each element a token goes through, in millions. An estimate: what attention does between tokens is
        left out (some 7 % at the hundred tokens of a question), and a head is counted as if every state went through
        all of it.
        """
        layers = self.layers * (counts.computed + counts.snapshots) + self.output * counts.trace
        tower = (self.blocks * PATCHES + self.merger) * counts.vision
        return 2 * (layers + tower + self.head * counts.head) / 1e6


def measure(
    embedders: Mapping[str, Embedder],
    sizes: Mapping[str, Sizes],
    probes: Sequence[Probe],
    tests: Sequence[Test],
    seed: int,
    on_call: Callable[[], None] = lambda: None,
) -> dict[str, Cost]:
    """The costs of rows, by key.

    Args:
        embedders: by system, without a store of traces. sizes: by arm.
        probes: the rows. tests: at least one question, asked one at a time.
        seed: of the questions. on_call: after every embedding, for progress.
    """
    results: dict[str, list[Result]] = {probe.key: [] for probe in probes}
    arms = [_arm(probe, embedders[probe.system.name], tests, seed, results[probe.key]) for probe in probes]
    for place in range(min(WARM_UP, len(tests))):
        take_turns(arms, place, place, on_call)
    for kept in results.values():
        kept.clear()
    turns = [take_turns(arms, place, place, on_call) for place in range(len(tests))]
    ms = 1000 * np.array(turns)
    return {probe.key: _cost(probe, ms[:, i].tolist(), results[probe.key], sizes) for i, probe in enumerate(probes)}


def _arm(probe: Probe, embedder: Embedder, tests: Sequence[Test], seed: int, results: list[Result]) -> Arm:
    items = question_items(probe, tests, seed)
    think = probe.think(embedder.recipe.roles["query"].think)

    def embed(place: int) -> None:
        results.append(embedder.embed(items[place], role="query", think=think))

    return Arm(probe.key, embed, embedder.clear_caches)


def _cost(probe: Probe, ms: list[float], results: Sequence[Result], sizes: Mapping[str, Sizes]) -> Cost:
    pairs = [(probe.system.embedder, result.counts) for result in results]
    if probe.system.reasoner is not None:
        pairs += [(probe.system.reasoner, one.reasoner_counts) for one in results if one.reasoner_counts is not None]

    def a_question(value: Callable[[str, Counts], float]) -> float:
        return sum(value(arm, counts) for arm, counts in pairs) / len(results)

    return Cost(
        ms=[round(value, 3) for value in ms],
        trace=a_question(lambda _, counts: counts.trace),
        computed=a_question(lambda _, counts: counts.computed),
        cached=a_question(lambda _, counts: counts.cached),
        head=a_question(lambda _, counts: counts.head),
        vision=a_question(lambda _, counts: counts.vision),
        mflop=a_question(lambda arm, counts: sizes[arm].operations(counts)),
    )


def parameters(folders: Sequence[Path]) -> int:
    """Parameters of checkpoints together, equal tensors counted once: a tower that two share, layers that run twice."""
    seen: dict[bytes, int] = {}
    for folder in folders:
        for _, tensors in _tensors(folder):
            for tensor in tensors.values():
                value = tensor.float().numpy().tobytes()
                seen[hashlib.sha256(value).digest()] = tensor.numel()
    return sum(seen.values())


def _tensors(folder: Path) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Names of files, and their tensors by name."""
    for path in sorted(folder.glob("*.safetensors")):
        yield path.name, load_file(path)


def _part(name: str) -> str | None:
    """What a tensor of Qwen2-VL's layout belongs to; `None` for what no token is multiplied with."""
    if "visual." in name:
        return "merger" if "merger" in name else "blocks"
    if "layers." in name:
        return "layers"
    return "output" if name.endswith(("lm_head.weight", "embed_tokens.weight")) else None
