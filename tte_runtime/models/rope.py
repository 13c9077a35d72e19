"""Rotary angles and M-RoPE positions (Qwen2-VL, arXiv 2409.12191, section 2.1).

Positions have three axes, (time, height, width); text has the same number on all three. Plain RoPE (arXiv
2104.09864) reads the first axis only. Scaled frequencies (linear, YaRN, llama3) are transformers' own. No state, no
weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tte_runtime.errors import CheckpointError, UnsupportedModelError
from tte_runtime.ops import Rotation

STATIC = ("default", "linear", "llama3", "yarn")  # frequencies that no request's length changes


@dataclass(frozen=True)
class RopeSpec:
    """How positions turn the D/2 pairs of a head's dimensions.

    Attributes:
        inv_freq: radians per position of every pair, fp32 values.
        axes: which axis of a position turns every pair.
        factor: scales cos and sin (YaRN's attention factor); 1 for others.
    """

    inv_freq: tuple[float, ...]
    axes: tuple[int, ...]
    factor: float = 1.0


def rope_spec(text: Any, head_dim: int, mrope: Literal["chunked", "interleaved"] | None) -> RopeSpec:
    """The rotary embedding that a decoder's config asks for.

    Args:
        text: the decoder's transformers config.
        head_dim: D.
        mrope: how M-RoPE deals pairs out to axes; `None` for plain RoPE.

    Raises:
        UnsupportedModelError: frequencies that depend on the request's length, or a partial rotation.
        CheckpointError: an M-RoPE section that does not fit the head.
    """
    rope = dict(text.rope_parameters)
    kind = rope.get("rope_type", "default")
    if kind not in STATIC:
        raise UnsupportedModelError(
            f"rope_type {kind!r} is not supported: a token's keys would depend on its neighbours. "
            f"Supported: {', '.join(STATIC)}."
        )
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedModelError("partial_rotary_factor is not supported; whole heads are turned.")
    if kind == "default":
        half = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        inv_freq, factor = 1.0 / rope["rope_theta"] ** half, 1.0
    else:
        inv_freq, factor = ROPE_INIT_FUNCTIONS[kind](text, torch.device("cpu"))
    axes = (0,) * (head_dim // 2) if mrope is None else _mrope_axes(rope.get("mrope_section"), head_dim // 2, mrope)
    return RopeSpec(tuple(inv_freq.tolist()), axes, float(factor))


def _mrope_axes(section: Sequence[int] | None, pairs: int, mrope: str) -> tuple[int, ...]:
    """The axis of every pair: time, height, width in runs of `section`; or in turns, and the rest for time."""
    if section is None or len(section) != 3 or sum(section) != pairs:
        raise CheckpointError(f"mrope_section {section} must be three numbers that sum to head_dim / 2 = {pairs}.")
    if mrope == "chunked":
        return tuple(axis for axis, size in enumerate(section) for _ in range(size))
    axes = [0] * pairs
    for axis in (1, 2):
        for pair in range(axis, 3 * section[axis], 3):
            axes[pair] = axis
    return tuple(axes)


class Rope:
    """Rotary tables of one decoder.

    Args:
        spec: frequencies and axes.
        device: where the angles are computed.
    """

    def __init__(self, spec: RopeSpec, device: torch.device | str) -> None:
        self.inv_freq = torch.tensor(spec.inv_freq, dtype=torch.float32, device=device)  # [D/2]
        self.axis = torch.tensor(spec.axes, device=device)  # [D/2], which axis turns which pair
        self.factor = spec.factor

    def __call__(self, positions: torch.Tensor) -> Rotation:
        """Angles of `positions`, int64 [3, T]."""
        angles = (positions.float()[self.axis].T * self.inv_freq).contiguous()  # kernels read rows
        if self.factor == 1.0:
            return Rotation(angles.cos(), angles.sin())
        return Rotation(angles.cos() * self.factor, angles.sin() * self.factor)


def mrope_positions(length: int, spans: Sequence[tuple[int, tuple[int, int, int], float]]) -> tuple[torch.Tensor, int]:
    """Positions of a prompt with pictures and videos, as transformers' `get_rope_index` gives them.

    Args:
        length: tokens of the prompt.
        spans: (first token, merged grid (t, h, w), interval) of every picture or video, in order; its tokens are
            t * h * w, and temporal patch i stands at the whole part of i * interval on the time axis.

    Returns:
        int64 [3, length], and the delta: token i after the prompt stands at position i + delta on all axes.
    """
    positions = np.empty((3, length), np.int64)
    done, position = 0, 0
    for start, (t, h, w), interval in spans:
        text = start - done
        positions[:, done:start] = np.arange(position, position + text)
        position += text
        time = np.arange(t, dtype=np.float32) * np.float32(interval)  # in float32, as transformers rounds it
        done = start + t * h * w
        grid = np.empty((3, t, h, w), np.int64)
        grid[0] = time.astype(np.int64)[:, None, None] + position
        grid[1] = np.arange(position, position + h)[:, None]
        grid[2] = np.arange(position, position + w)
        positions[:, start:done] = grid.reshape(3, -1)
        position += max(h, w)
    positions[:, done:] = np.arange(position, position + length - done)
    # Text goes on after the larger side of a grid, however far its time reached. transformers 5 does so when it
    # generates and when it encodes, though the delta that its `get_rope_index` returns is counted from the maximum.
    return torch.from_numpy(positions), position - done
