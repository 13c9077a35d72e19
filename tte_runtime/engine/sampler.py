"""How next tokens are to be drawn, row by row. Same numbers for a request whoever sits beside it in the batch."""

from __future__ import annotations

import torch

from tte_runtime.engine.sequence import Sequence
from tte_runtime.ops import Draw
from tte_runtime.ops.transfer import to_device


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
        top_k=top_k,
        top_p=top_p,
        greedy=all(option.temperature == 0 for option in options),
        filtered=any(option.top_k > 0 or option.top_p < 1 for option in options),
    )
