"""Rotary angles and M-RoPE positions (Qwen2-VL, arXiv 2409.12191, section 2.1).

Positions have three axes, (time, height, width); text has the same number on all three. A spec without
`mrope_section` reads the first axis only, which is plain RoPE (arXiv 2104.09864). No state, no weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tte_runtime.models.spec import DecoderSpec
from tte_runtime.ops import Rotation


class Rope:
    """Rotary tables of one decoder.

    Args:
        spec: the decoder; `head_dim`, `rope_theta` and `mrope_section` are read.
        device: where the angles are computed.
    """

    def __init__(self, spec: DecoderSpec, device: torch.device | str) -> None:
        half = torch.arange(0, spec.head_dim, 2, dtype=torch.float32) / spec.head_dim
        self.inv_freq = (1.0 / spec.rope_theta**half).to(device)  # [D/2]
        axes = [axis for axis, size in enumerate(spec.mrope_section or (spec.head_dim // 2,)) for _ in range(size)]
        self.axis = torch.tensor(axes, device=device)  # [D/2], which axis turns which pair

    def __call__(self, positions: torch.Tensor) -> Rotation:
        """Angles of `positions`, int64 [3, T]."""
        angles = (positions.float()[self.axis].T * self.inv_freq).contiguous()  # kernels read rows
        return Rotation(angles.cos(), angles.sin())


def mrope_positions(length: int, spans: Sequence[tuple[int, tuple[int, int, int], float]]) -> tuple[torch.Tensor, int]:
    """Positions of a prompt with pictures and videos, as transformers' `get_rope_index` gives them.

    Args:
        length: tokens of the prompt.
        spans: (first token, merged grid (t, h, w), interval) of every picture or video, in order; its tokens are
            t * h * w, and temporal patch i stands at the whole part of i * interval on the time axis.

    Returns:
        int64 [3, length], and the delta: token i after the prompt stands at position i + delta on all axes.
    """
    positions = torch.empty(3, length, dtype=torch.int64)
    done, position = 0, 0
    for start, (t, h, w), interval in spans:
        text = start - done
        positions[:, done:start] = torch.arange(position, position + text)
        position += text
        time = (torch.arange(t) * torch.tensor(interval)).long()  # in float32, as transformers rounds it
        grid = torch.meshgrid(time, torch.arange(h), torch.arange(w), indexing="ij")
        done = start + t * h * w
        positions[:, start:done] = torch.stack(grid).reshape(3, -1) + position
        position += max(h, w)
    positions[:, done:] = torch.arange(position, position + length - done)
    last = int(positions.max()) + 1 if length else 0
    return positions, last - length
