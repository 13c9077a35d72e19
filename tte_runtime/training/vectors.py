"""From training items to the vectors that serving reads: prompt, trace, tower, decoder, readout, L2 norm.

Knows transformers' models and heads; knows no loss.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tte_runtime.training.examples import Entry
from tte_runtime.training.feeding import Fed, Feeder, pad
from tte_runtime.training.loop import autocast
from tte_runtime.training.states import decode, see, tapped


class Vectors:
    """Embeds items of training data.

    Args:
        model: of transformers.
        feeder: what is fed for an item.
        mixed: matrix products in bfloat16.
        head: reads tapped states, or `None`. tap_layer: the layer after which they are.
    """

    def __init__(
        self, model: Any, feeder: Feeder, *, mixed: bool, head: Any = None, tap_layer: int | None = None
    ) -> None:
        self.model = model
        self.feeder = feeder
        self.mixed = mixed
        self.head = head
        self.tap_layer = tap_layer
        self._pool = ThreadPoolExecutor(os.cpu_count())  # pictures are opened and cut beside each other

    def embed(self, entries: list[Entry]) -> Tensor:
        """L2-normalised vectors, fp32 [S, E]."""
        rows = list(self._pool.map(self.feeder.embedded, entries))
        batch = replace(pad(rows), features=see(self.model, [span for row in rows for span in row.media]))
        device = self.model.device
        last = torch.tensor([len(row.ids) - 1 for row in rows], device=device)
        with autocast(device.type, self.mixed):
            if self.head is None:
                return F.normalize(_read(decode(self.model, batch), rows), dim=-1)
            with torch.no_grad(), tapped(self.model.get_decoder(), self.tap_layer or 0):
                states = decode(self.model, batch)
            return self.head(states.float(), batch.positions.to(device), last)

    def traced(self, entries: Sequence[Entry]) -> str:
        """How many queries and documents are embedded with a trace, in words."""
        thinking = [entry for entry in entries if self.feeder.thinks(entry)]
        return f"{len(thinking)} of {len(entries)} items are embedded with their traces"


def _read(states: Tensor, rows: Sequence[Fed]) -> Tensor:
    """The states that become vectors, fp32 [S, C]."""
    found = []
    for one, row in zip(states, rows, strict=True):
        found.append(one[: len(row.ids)].float().mean(0) if row.place is None else one[row.place].float())
    return torch.stack(found)
