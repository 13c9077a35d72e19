"""What becomes of a launched step: its tokens reach the host and decide what goes on, vectors are read and handed out.

The only place that waits for the device. Where the host runs behind, the next step is queued by the time a step lands:
what is read only then arrives after that one. So vectors whose last token is known to be fed are read at the launch.
Knows no batch before it was launched.
"""

from __future__ import annotations

import math
import time
from collections import deque

import numpy as np

from tte_runtime.engine.flight import Delivery, Flight
from tte_runtime.engine.live import Live
from tte_runtime.engine.readout import End, Reader, keep_markers, not_finite
from tte_runtime.engine.results import result_of
from tte_runtime.engine.runner import StepOutput
from tte_runtime.engine.scheduler import Scheduler
from tte_runtime.engine.sequence import Sequence
from tte_runtime.ops.transfer import HostCopy


class Landing:
    """Flights in the order of their launch, then deliveries in the order of their reading.

    Args:
        live: the requests in work.
        scheduler: whom sequences that are done leave.
        reader: reads their vectors.
        behind: steps land after the next one was launched.
    """

    def __init__(self, live: Live, scheduler: Scheduler, reader: Reader, *, behind: bool) -> None:
        self.flights: deque[Flight] = deque()
        self.deliveries: deque[Delivery] = deque()
        self._live = live
        self._scheduler = scheduler
        self._reader = reader
        self._behind = behind
        self._last_landed = 0.0

    def launch(self, flight: Flight) -> None:
        """Take in a step that is queued on the device."""
        self.flights.append(flight)
        if self._behind:
            flight.deliveries = self._read(
                [end for end in flight.ends if end.is_last and _all_kept(end)], flight.output
            )

    def land(self) -> None:
        """Wait for the oldest flight's tokens, let them decide what goes on, and read or hand out what is done."""
        flight = self.flights.popleft()
        self._live.at_work = [end.sequence for end in flight.ends]
        self._check_states(flight)
        tokens = [] if flight.tokens is None else flight.tokens.get().tolist()
        for (sequence, index), (token, stops) in zip(flight.drawn, tokens, strict=True):
            if not sequence.gone and sequence.learn(index, token, stops=bool(stops)):
                sequence.listener.on_token(index, token)
        row = 0
        for chunk in flight.batch.chunks:
            keep_markers(chunk, flight.output.hidden, row)
            row += len(chunk)
        self._scheduler.turns.end(flight.batch.is_corpus, time.perf_counter() - max(flight.began, self._last_landed))
        stage = "decode" if flight.batch.decode else "prefill"
        self._spend_since(flight.started, self._live.at_work, stage)
        done = [end for end in flight.ends if end.is_last and not end.sequence.gone]
        read = {sequence for delivery in flight.deliveries for sequence in delivery.sequences}
        self.deliveries += self._read([end for end in done if end.sequence not in read], flight.output)
        for end in done:
            self._scheduler.remove(end.sequence)
        self.deliveries.extendleft(reversed(flight.deliveries))  # they came with the step
        for _ in flight.deliveries:
            self.deliver()

    def deliver(self) -> None:
        """Wait for the next delivery's vectors, and hand them to those who asked."""
        delivery = self.deliveries.popleft()
        self._live.at_work = delivery.sequences
        vectors = delivery.vectors.get().numpy()
        self._spend_since(delivery.started, delivery.sequences, "readout")
        for sequence, vector in zip(delivery.sequences, vectors, strict=True):
            if sequence.gone:
                continue
            if not np.isfinite(vector).all():
                self._live.fail(sequence, not_finite("vector"))
                continue
            sequence.gone = True
            if all(other.gone for other in self._live.family_of(sequence).traces):
                self._live.drop(sequence.order)
            sequence.listener.on_result(result_of(sequence, vector))

    def _check_states(self, flight: Flight) -> None:
        """Wait for a step. Requests whose states are NaN or infinite fail; only others' pages can be found again."""
        for chunk, total in zip(flight.batch.chunks, flight.sums.get().tolist(), strict=True):
            if not math.isfinite(total):
                self._live.fail(chunk.sequence, not_finite(f"states after {chunk.stop} tokens"))
            elif not flight.batch.decode and not chunk.sequence.gone:
                self._scheduler.publish(chunk.sequence, chunk.stop)

    def _read(self, ends: list[End], output: StepOutput) -> list[Delivery]:
        """Read the vectors of sequences whose last token has been fed, kind by kind; nothing waits for them."""
        deliveries = []
        for kind in sorted({end.sequence.request.readout.kind for end in ends}):
            started = time.perf_counter()
            group = [end for end in ends if end.sequence.request.readout.kind == kind]
            group.sort(key=lambda end: not end.sequence.dispensable)  # a snapshot comes before the result
            vectors = HostCopy(self._reader.read(kind, group, output))
            deliveries.append(Delivery([end.sequence for end in group], vectors, started))
        return deliveries

    def _spend_since(self, started: float, sequences: list[Sequence], stage: str) -> None:
        """Book the time since something was launched, or since the one before it landed, whichever is less."""
        now = time.perf_counter()
        for sequence in sequences:
            sequence.spent[stage] += now - max(started, self._last_landed)
        self._last_landed = now


def _all_kept(end: End) -> bool:
    """The states that the readout needs are kept by now; where a generated marker stands is known at a landing only."""
    return end.sequence.request.readout.kind != "generated_marker"
