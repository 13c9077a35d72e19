"""How next tokens are to be drawn, row by row. Same numbers for a request whoever sits beside it in the batch."""

from __future__ import annotations

import torch

from tte_runtime.engine.sequence import Sequence
from tte_runtime.ops import Draw
from tte_runtime.ops.transfer import to_device


def draw_for(sequences: list[Sequence], device: torch.device) -> Draw:
    """The draw of one more token for each sequence: its sampling options, and where the token will stand."""
    options = [sequence.request.sampling for sequence in sequences]
    return Draw(
        temperature=to_device([option.temperature for option in options], torch.float32, device),
        seed=to_device([option.seed for option in options], torch.int64, device),
        position=to_device([len(sequence.ids) for sequence in sequences], torch.int64, device),
        trace_index=to_device([option.trace_index for option in options], torch.int64, device),
        top_k=to_device([option.top_k for option in options], torch.int64, device),
        top_p=to_device([option.top_p for option in options], torch.float32, device),
        greedy=all(option.temperature == 0 for option in options),
        filtered=any(option.top_k > 0 or option.top_p < 1 for option in options),
    )
