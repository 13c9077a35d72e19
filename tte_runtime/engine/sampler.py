"""How next tokens are to be drawn and what ends a trace, row by row: the same whoever sits beside a request."""

from __future__ import annotations

from functools import lru_cache

import torch

from tte_runtime.config import MAX_STOPS
from tte_runtime.engine.sequence import Sequence
from tte_runtime.ops import Draw
from tte_runtime.ops.transfer import to_device


@lru_cache(maxsize=64)
def stop_row(stop_ids: frozenset[int]) -> tuple[int, ...]:
    """A trace's stop ids as a row of MAX_STOPS; -1 is no token."""
    return (*sorted(stop_ids), *[-1] * (MAX_STOPS - len(stop_ids)))


def stops_of(sequences: list[Sequence], device: torch.device) -> torch.Tensor:
    """What ends the sequences' traces, int64 [S, MAX_STOPS]."""
    return to_device([stop_row(sequence.request.stop_ids) for sequence in sequences], torch.int64, device)


def draw_for(sequences: list[Sequence], device: torch.device) -> Draw:
    """The draw of one more token for each sequence: its sampling options, and where the token will stand."""
    options = [sequence.request.sampling for sequence in sequences]
    whole = [
        [option.seed for option in options],
        [len(sequence.ids) for sequence in sequences],
        [option.trace_index for option in options],
        [option.top_k for option in options],
    ]
    parts = [[option.temperature for option in options], [option.top_p for option in options]]
    seed, position, trace_index, top_k = to_device(whole, torch.int64, device).unbind()
    temperature, top_p = to_device(parts, torch.float32, device).unbind()
    return Draw(
        temperature=temperature,
        seed=seed,
        position=position,
        trace_index=trace_index,
        stop_ids=stops_of(sequences, device),
        top_k=top_k,
        top_p=top_p,
        greedy=all(option.temperature == 0 for option in options),
        filtered=any(option.top_k > 0 or option.top_p < 1 for option in options),
    )
