"""Which rows the table has: systems, how long each may think, and what is done to its traces.

The systems are those of Think-Then-Embed (arXiv 2510.05014) and what they are held against. Knows the names of arms
and how a system is put together from their checkpoints; knows no question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tte_runtime.embedder import Embedder
from tte_runtime.errors import OptionError, one_of
from tte_runtime.evaluation.scenes_table.controls import CONTROLS
from tte_runtime.reasoners.local import LocalReasoner
from tte_runtime.types import Think

BUDGETS = (0, 4, 8, 12)  # most tokens of a trace; beyond them, as many as the model wants
Traces = Literal["none", "teacher", "written"]


@dataclass(frozen=True)
class System:
    """One system of the table.

    Attributes:
        name: in options and files. title: in the table.
        embedder: the arm that embeds. reasoner: the arm that writes its traces; `None` where nobody else does.
        traces: "none", the "teacher"'s own, or "written" by the system.
    """

    name: str
    title: str
    embedder: str
    reasoner: str | None = None
    traces: Traces = "none"

    @property
    def arms(self) -> tuple[str, ...]:
        """What it is made of."""
        return (self.embedder,) if self.reasoner is None else (self.embedder, self.reasoner)

    def load(self, folders: Mapping[str, Path], **options: Any) -> Embedder:
        """Ready to embed, from the checkpoints of its arms; options and errors as `Embedder.from_pretrained`."""
        reasoner = None if self.reasoner is None else LocalReasoner(folders[self.reasoner])
        return Embedder.from_pretrained(folders[self.embedder], reasoner=reasoner, **options)


SYSTEMS = (
    System("direct", "direct: embeds at once, no traces", "direct"),
    System("looped", "looped direct: its layers run twice", "looped"),
    System("tte_t", "TTE_t: the teacher's traces, separate embedder", "embedder", traces="teacher"),
    System("tte_s", "TTE_s: finetuned reasoner, separate embedder", "embedder", "reasoner", "written"),
    System("decoder_layers", "TTE_u: decoder layers", "decoder_layers", traces="written"),
    System("attention_pooler", "TTE_u: attention pooler", "attention_pooler", traces="written"),
    System("latent_attention", "TTE_u: latent attention", "latent_attention", traces="written"),
    System("qformer", "TTE_u: QFormer", "qformer", traces="written"),
)
UNIFIED = "decoder_layers"  # the paper's best head, which is asked without thinking too, and of which controls are made
CONTROL_ROWS = "controls"  # what they are called among the systems


@dataclass(frozen=True)
class Probe:
    """One row: a system, as it is or with something changed.

    Attributes:
        budget: most tokens of a trace; `None` for the recipe's own limit.
        control: what is done to the traces, of CONTROLS.
    """

    system: System
    budget: int | None = None
    control: str | None = None

    @property
    def key(self) -> str:
        """Its name in files and JSON, such as "decoder_layers", "decoder_layers@4", "decoder_layers+filler"."""
        budget = "" if self.budget is None else f"@{self.budget}"
        return self.system.name + budget + ("" if self.control is None else f"+{self.control}")

    @property
    def whole(self) -> bool:
        """It is a row of the table and asked everything; the others are points of curves, and asked a part."""
        return self.budget is None or (self.budget == 0 and self.system.name == UNIFIED)

    def think(self, by_recipe: bool) -> Think | bool:
        """As `think` of `Embedder.embed`, for questions; `by_recipe` is what the system's recipe says of them."""
        if self.budget is None or self.control is not None:
            return by_recipe
        return False if self.budget == 0 else Think(max_tokens=self.budget)


def choose_probes(names: Sequence[str]) -> list[Probe]:
    """The rows of some systems, or of all where no name is given; raises OptionError for one that is unknown."""
    known = [system.name for system in SYSTEMS]
    for name in names:
        if name not in (*known, CONTROL_ROWS):
            raise OptionError(one_of("system", name, (*known, CONTROL_ROWS)))
    chosen = [system for system in SYSTEMS if not names or system.name in names]
    probes = [Probe(system) for system in chosen]
    probes += [Probe(system, budget) for system in chosen if system.traces == "written" for budget in BUDGETS]
    if not names or CONTROL_ROWS in names:
        (unified,) = (system for system in SYSTEMS if system.name == UNIFIED)
        probes += [Probe(unified, control=control) for control in CONTROLS]
    return probes
