"""From hidden states to vectors: which states of a step are kept, and what is read when a sequence is done.

Knows readouts and states; knows no scheduling and never waits for the device.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch

from tte_runtime.engine.runner import Runner, StepOutput
from tte_runtime.engine.scheduler import Batch, Chunk
from tte_runtime.engine.sequence import Sequence
from tte_runtime.errors import EngineError
from tte_runtime.heads.head import Head
from tte_runtime.ops import Pooling
from tte_runtime.ops.transfer import to_device


@dataclass(frozen=True)
class End:
    """Where a sequence stood after a step: `stop` tokens fed, the state of the last of them in `row`."""

    sequence: Sequence
    stop: int
    row: int

    @property
    def is_last(self) -> bool:
        """Nothing is fed to the sequence any more."""
        return self.sequence.done and self.stop == len(self.sequence.ids)


def keep_states(chunk: Chunk, hidden: torch.Tensor, row: int) -> None:
    """Keep what a mean or a marker in the prompt will need of a chunk's states, which begin in `row` of `hidden`."""
    sequence, readout = chunk.sequence, chunk.sequence.request.readout
    if readout.kind == "mean":
        sequence.kept.append(hidden[row : row + len(chunk)])
    elif readout.kind == "marker":
        assert readout.position is not None
        if chunk.start <= readout.position < chunk.stop:
            sequence.kept = [_row(hidden, row + readout.position - chunk.start)]


def keep_markers(chunk: Chunk, hidden: torch.Tensor, row: int) -> None:
    """Keep the state of the last marker in a chunk that was generated, once its tokens are known."""
    sequence, readout = chunk.sequence, chunk.sequence.request.readout
    if readout.kind != "generated_marker":
        return
    for i in range(max(chunk.start, sequence.prompt_len), min(chunk.stop, len(sequence.ids))):
        if sequence.ids[i] == readout.marker_id:
            sequence.kept = [_row(hidden, row + i - chunk.start)]


def _row(hidden: torch.Tensor, row: int) -> torch.Tensor:
    """A copy, [1, C]: a view would keep the whole step's states alive."""
    return hidden[row][None].clone()


def last_sums(batch: Batch, hidden: torch.Tensor) -> torch.Tensor:
    """The sum of the last state of every chunk, float32, where `hidden` [T, C] are the states of a step.

    NaN or infinity anywhere in a sequence shows there: whoever attends to it becomes NaN.
    """
    rows = [end - 1 for end in itertools.accumulate(len(chunk) for chunk in batch.chunks)]
    if len(rows) < len(hidden):
        hidden = hidden[to_device(rows, torch.int64, hidden.device)]
    return hidden.sum(-1, dtype=torch.float32)


def not_finite(what: str) -> EngineError:
    """The error of a request whose numbers have left the range of its dtype, or were never in it."""
    return EngineError(
        f"the request's {what} came out NaN or infinite, so its vector would mean nothing. "
        'Load the model with dtype="float32", and check its weights.'
    )


class Reader:
    """Reads the vectors of sequences that are done.

    Args:
        runner: whose decoder gives the final norm, and whose taps a head reads.
        head: the embedding head of readout "head", or `None`.
    """

    def __init__(self, runner: Runner, head: Head | None) -> None:
        self._runner = runner
        self._head = head

    def read(self, kind: str, ends: list[End], output: StepOutput) -> torch.Tensor:
        """Vectors, float32 [S, E], of sequences with one kind of readout, on the device.

        Args:
            ends: the sequences, with the rows of their last tokens.
            output: of the step that fed these tokens.
        """
        sequences = [end.sequence for end in ends]
        if kind == "head":
            return self._read_head(sequences)
        if kind == "last" and output.vectors is not None:
            return output.vectors[to_device([end.row for end in ends], torch.int64, self._runner.device)]
        decoder = self._runner.decoder
        if kind == "last":
            rows, finish = [end.row for end in ends], self._finish(sequences)
            return decoder.ops.finish_rows(output.hidden, rows, decoder.norm, decoder.spec.norm_eps, **finish)
        states = [
            torch.cat(end.sequence.kept) if end.sequence.kept else output.hidden[end.row : end.row + 1] for end in ends
        ]
        pooling = self._pooling(sequences, [len(state) for state in states])
        return decoder.ops.pool_normalize(torch.cat(states), decoder.norm, decoder.spec.norm_eps, pooling)

    def _pooling(self, sequences: list[Sequence], lengths: list[int]) -> Pooling:
        mean = sequences[0].request.readout.kind == "mean"
        return Pooling.of(lengths, **self._finish(sequences), device=self._runner.device, mean=mean)

    def _finish(self, sequences: list[Sequence]) -> dict[str, list[Any]]:
        """How each vector is finished: the elements it keeps, and whether it is normalised."""
        readouts = [sequence.request.readout for sequence in sequences]
        width = self._runner.decoder.spec.hidden_size
        return {
            "dims": [readout.dim or width for readout in readouts],
            "normalize": [readout.normalize for readout in readouts],
        }

    def _read_head(self, sequences: list[Sequence]) -> torch.Tensor:
        assert self._head is not None, "no head is loaded"
        positions = torch.cat([_all_positions(sequence) for sequence in sequences], dim=1)
        lengths = [sequence.fed for sequence in sequences]
        pooling = self._pooling(sequences, [1] * len(sequences))
        return self._head.forward(self._runner.tapped(sequences), positions, lengths, pooling)


def _all_positions(sequence: Sequence) -> torch.Tensor:
    """int64 [3, fed]: of the prompt, then of everything fed after it."""
    after = torch.arange(sequence.prompt_len, sequence.fed) + sequence.request.position_delta
    return torch.cat([sequence.request.positions, after.expand(3, -1)], dim=1)
