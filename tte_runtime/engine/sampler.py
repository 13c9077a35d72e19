"""Next trace tokens from hidden states. Same numbers for a request whoever sits beside it in the batch."""

from __future__ import annotations

import torch

from tte_runtime.engine.sequence import Sequence
from tte_runtime.models.decoder import Decoder
from tte_runtime.ops import Draw


def sample_next(decoder: Decoder, hidden: torch.Tensor, sequences: list[Sequence]) -> list[int]:
    """Draw one token for every sequence.

    Args:
        decoder: gives the final norm and the output embeddings.
        hidden: [S, C], the state of each sequence's last token, before the final norm.
        sequences: whose sampling options apply, row by row.

    Returns:
        S token ids.
    """
    return decoder.next_tokens(hidden, _draw(sequences, hidden.device)).tolist()


def _draw(sequences: list[Sequence], device: torch.device) -> Draw:
    options = [sequence.request.sampling for sequence in sequences]

    def column(values: list[float] | list[int], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    return Draw(
        temperature=column([option.temperature for option in options], torch.float32),
        seed=column([option.seed for option in options], torch.int64),
        position=column([len(sequence.ids) for sequence in sequences], torch.int64),
        trace_index=column([option.trace_index for option in options], torch.int64),
        top_k=column([option.top_k for option in options], torch.int64),
        top_p=column([option.top_p for option in options], torch.float32),
        greedy=all(option.temperature == 0 for option in options),
        filtered=any(option.top_k > 0 or option.top_p < 1 for option in options),
    )
