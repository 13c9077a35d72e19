"""What a captured decode step is told: one block of memory, written on the host, and its image on the device.

The host has to be done with a step before the device is, so filling is quick: columns are written whole, and a row's
pages only where others stood there before. Knows the rows of a batch and the draws behind them; knows no graph and no
kernel.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tte_runtime.config import MAX_STOPS
from tte_runtime.engine.runner import Draws
from tte_runtime.engine.sampler import stop_row
from tte_runtime.engine.scheduler import Batch
from tte_runtime.ops import Draw

ALIGNMENT = 16  # bytes; kernels are compiled once more for pointers that are aligned to less
SCRATCH = [0]  # the page that padding reads and writes
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


class Stage:
    """The host's side: a block to fill, pinned where it goes to a GPU.

    Args:
        size: rows, padding included.
        width: pages of the longest sequence.
        dim: length of a whole vector.
        scratch: the lane that takes the tokens of rows that draw nothing.
        pinned: lock the memory, so that a copy from it waits for nothing.
    """

    def __init__(self, size: int, width: int, dim: int, scratch: int, *, pinned: bool) -> None:
        told = Told.make(size, width, torch.device("cpu"), pinned=pinned)
        self.block = told.block
        self._dim, self._scratch = dim, scratch
        self._longs = dict(zip(LONGS, told.longs.numpy(), strict=True))
        self._temperature, self._stops = told.temperature.numpy(), told.stops.numpy()
        self._kv_lens, self._dims, self._normalize = told.kv_lens.numpy(), told.dims.numpy(), told.normalize.numpy()
        self._table = told.table.numpy()
        self._held: list[tuple[list[int], int]] = [([], 0)] * size  # what each row of the table was written from

    def fill(self, batch: Batch, draws: Draws) -> None:
        """Write down a batch and its draws; rows past the batch's become padding."""
        fed = [(chunk.sequence, index) for chunk in batch.chunks for index in range(chunk.start, chunk.stop)]
        readouts = [sequence.request.readout for sequence, _ in fed]
        held = [sequence.pages for sequence, _ in fed]
        for row, pages in enumerate(held + [SCRATCH] * (len(self._held) - len(held))):
            self._hold(row, pages)
        _write(self._longs["ids"], [sequence.ids[index] for sequence, index in fed])
        _write(self._longs["read_lane"], [sequence.lane or 0 for sequence, _ in fed])
        _write(self._longs["slot"], [sequence.slot(index) for sequence, index in fed])
        _write(self._longs["position"], [sequence.position(index) for sequence, index in fed])
        _write(self._kv_lens, [index + 1 for _, index in fed], 1)
        _write(self._dims, [readout.dim or self._dim for readout in readouts], self._dim)
        _write(self._normalize, [readout.normalize for readout in readouts], True)
        self._fill_draws(draws)

    def _hold(self, row: int, pages: list[int]) -> None:
        """Let a row of the table be these pages. A sequence's list only grows; with other pages it has another list."""
        held, length = self._held[row]
        if held is not pages or length != len(pages):
            self._table[row, : len(pages)] = pages
            self._held[row] = (pages, len(pages))

    def _fill_draws(self, draws: Draws) -> None:
        """Who draws, and how; what the other rows draw goes to the scratch lane."""
        rows = [row for _, row in draws]
        options = [sequence.request.sampling for sequence, _ in draws]
        columns: dict[str, list[int | None]] = {
            "write_lane": [sequence.lane for sequence, _ in draws],
            "draw_position": [len(sequence.ids) for sequence, _ in draws],
            "seed": [option.seed for option in options],
            "trace_index": [option.trace_index for option in options],
        }
        assert None not in columns["write_lane"], "only what runs draws tokens"
        self._longs["write_lane"][:] = self._scratch
        for name, values in columns.items():
            self._longs[name][rows] = values
        self._temperature[rows] = [option.temperature for option in options]
        self._stops[rows] = [stop_row(sequence.request.stop_ids) for sequence, _ in draws] or np.empty((0, MAX_STOPS))


def _write(column: NDArray[Any], values: Any, padding: int | bool = 0) -> None:
    column[: len(values)] = values
    column[len(values) :] = padding
