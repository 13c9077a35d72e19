"""What is under way on the device: steps that were launched, and vectors that were read. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field

from tte_runtime.engine.readout import End
from tte_runtime.engine.runner import StepOutput
from tte_runtime.engine.scheduler import Batch
from tte_runtime.engine.sequence import Sequence
from tte_runtime.ops.transfer import HostCopy


@dataclass(frozen=True)
class Delivery:
    """Vectors on their way to the host, and whose they are."""

    sequences: list[Sequence]
    vectors: HostCopy
    started: float


@dataclass
class Flight:
    """A step that was launched and is not landed yet. It began with its pictures, and its layers were started then."""

    batch: Batch
    began: float
    started: float
    output: StepOutput
    sums: HostCopy  # of every chunk's last state, see `last_sums`; there is one to wait for in every step
    tokens: HostCopy | None
    drawn: list[tuple[Sequence, int]] = field(default_factory=list)  # whose each token is, and its index in the trace
    ends: list[End] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)  # read with the step itself
