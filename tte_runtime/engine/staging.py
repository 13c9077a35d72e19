"""What a captured decode step is told: one block of memory, pinned on the host and its image on the device.

Knows the rows of a batch and the draws behind them; knows no graph and no kernel.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence as Values
from dataclasses import dataclass

import torch

from tte_runtime.config import MAX_STOPS
from tte_runtime.engine.request import Readout
from tte_runtime.engine.runner import Draws
from tte_runtime.engine.sampler import stop_row
from tte_runtime.engine.scheduler import Batch
from tte_runtime.ops import Draw

ALIGNMENT = 16  # bytes; kernels are compiled once more for pointers that are aligned to less
LONGS = ("ids", "read_lane", "write_lane", "slot", "position", "seed", "draw_position", "trace_index")


@dataclass(frozen=True)
class Told:
    """What a step of `size` rows is told, as views of one block of bytes: device memory, or pinned memory to fill."""

    block: torch.Tensor  # uint8
    longs: torch.Tensor  # int64 [len(LONGS), size]
    temperature: torch.Tensor  # float32 [size]
    kv_lens: torch.Tensor  # int32 [size]
    dims: torch.Tensor  # int32 [size]
    stops: torch.Tensor  # int64 [size, MAX_STOPS]
    table: torch.Tensor  # int32 [size, width]
    normalize: torch.Tensor  # bool [size]

    @classmethod
    def make(cls, size: int, width: int, device: torch.device, *, pinned: bool = False) -> Told:
        """Zeros: every row is padding."""
        parts = {  # bytes of each, in order
            "longs": 8 * size * len(LONGS),
            "temperature": 4 * size,
            "kv_lens": 4 * size,
            "dims": 4 * size,
            "stops": 8 * size * MAX_STOPS,
            "table": 4 * size * width,
            "normalize": size,
        }
        starts = [0, *itertools.accumulate(-(-length // ALIGNMENT) * ALIGNMENT for length in parts.values())]
        block = torch.zeros(starts[-1], dtype=torch.uint8, device=device, pin_memory=pinned)
        views = {
            name: block[start : start + length] for (name, length), start in zip(parts.items(), starts, strict=False)
        }
        return cls(
            block,
            views["longs"].view(torch.int64).view(len(LONGS), size),
            views["temperature"].view(torch.float32),
            views["kv_lens"].view(torch.int32),
            views["dims"].view(torch.int32),
            views["stops"].view(torch.int64).view(size, MAX_STOPS),
            views["table"].view(torch.int32).view(size, width),
            views["normalize"].view(torch.bool),
        )

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.longs[LONGS.index(name)]

    @property
    def size(self) -> int:
        """Rows, padding included."""
        return self.longs.shape[1]

    @property
    def draw(self) -> Draw:
        """A draw for every row, over this memory; top-k and top-p are no part of a captured step."""
        return Draw(
            temperature=self.temperature,
            seed=self["seed"],
            position=self["draw_position"],
            trace_index=self["trace_index"],
            stop_ids=self.stops,
            top_k=torch.zeros_like(self["seed"]),
            top_p=torch.ones_like(self.temperature),
            greedy=False,
            filtered=False,
        )

    def fill(self, batch: Batch, draws: Draws, dim: int, scratch: int) -> None:
        """Write down a batch and its draws; rows past the batch's become padding.

        Args:
            dim: length of a whole vector.
            scratch: the lane that takes the tokens of rows that draw nothing.
        """
        columns = self._fill_rows(batch, dim) | self._fill_draws(draws, scratch)
        self.longs.copy_(torch.tensor([_padded(columns[name], self.size, 0) for name in LONGS]))

    def _fill_rows(self, batch: Batch, dim: int) -> dict[str, list[int]]:
        """What is fed; returns the columns of `longs` that it decides."""
        columns: dict[str, list[int]] = {name: [] for name in ("ids", "read_lane", "slot", "position")}
        kv_lens: list[int] = []
        readouts: list[Readout] = []
        self.table[:, 0] = 0
        for chunk in batch.chunks:
            sequence = chunk.sequence
            pages = torch.tensor(sequence.pages, dtype=torch.int32)
            for i in range(chunk.start, chunk.stop):
                self.table[len(kv_lens), : len(pages)] = pages
                columns["ids"].append(sequence.ids[i])
                columns["slot"].append(sequence.slot(i))
                columns["position"].append(sequence.position(i))
                columns["read_lane"].append(sequence.lane or 0)
                kv_lens.append(i + 1)
                readouts.append(sequence.request.readout)
        self.kv_lens.copy_(torch.tensor(_padded(kv_lens, self.size, 1)))
        self.dims.copy_(torch.tensor(_padded([readout.dim or dim for readout in readouts], self.size, dim)))
        self.normalize.copy_(torch.tensor(_padded([readout.normalize for readout in readouts], self.size, True)))
        return columns

    def _fill_draws(self, draws: Draws, scratch: int) -> dict[str, list[int]]:
        """What is drawn; returns the columns of `longs` that it decides."""
        columns = {name: [0] * self.size for name in ("seed", "draw_position", "trace_index")}
        columns["write_lane"] = [scratch] * self.size
        temperature = [0.0] * self.size
        stops = [stop_row(frozenset())] * self.size
        for sequence, row in draws:
            option = sequence.request.sampling
            assert sequence.lane is not None, "only what runs draws tokens"
            columns["write_lane"][row] = sequence.lane
            columns["seed"][row] = option.seed
            columns["draw_position"][row] = len(sequence.ids)
            columns["trace_index"][row] = option.trace_index
            temperature[row] = option.temperature
            stops[row] = stop_row(sequence.request.stop_ids)
        self.temperature.copy_(torch.tensor(temperature))
        self.stops.copy_(torch.tensor(stops))
        return columns


def _padded(values: Values[int], size: int, filler: int) -> list[int]:
    return [*values, *[filler] * (size - len(values))]
