"""Prefill attention by other libraries: torch's SDPA, flash-attn and xformers, behind the seam.

One is chosen once, by `select_ops`; each takes what `TorchOps.attention` takes for new tokens of several sequences.
Their kernels know nothing of our pages, so keys and values are gathered first, once a layer. Their causal masks must
align bottom-right: the new tokens are a sequence's last ones. Equal bits are promised for our own kernels only.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from tte_runtime.errors import MissingExtraError, OptionError
from tte_runtime.ops.layout import StepLayout
from tte_runtime.ops.torch_attention import extend_sequences

Prefill = Callable[[torch.Tensor, torch.Tensor, StepLayout, float], torch.Tensor]
"""(q [T, H, D], pages [2, N, K, 16, D] of one layer, layout, scale) -> [T, H, D]."""

MODULES = {"flash-attn": "flash_attn", "xformers": "xformers"}
INSTALL = {
    "flash-attn": "pip install flash-attn --no-build-isolation",
    "xformers": "pip install xformers",
}


def load_prefill(name: str, device: str, dtype: torch.dtype) -> Prefill:
    """The prefill attention called `name`: "sdpa", "flash-attn" or "xformers".

    Raises:
        MissingExtraError: its package is not installed. OptionError: it cannot run on the device, or in the dtype.
    """
    if name == "sdpa":
        return extend_sequences
    _check(name, device, dtype)
    return FlashAttention() if name == "flash-attn" else Xformers()


def _check(name: str, device: str, dtype: torch.dtype) -> None:
    if importlib.util.find_spec(MODULES[name]) is None:
        raise MissingExtraError(f'attention="{name}" needs the package {name}. Run: {INSTALL[name]}')
    if not device.startswith("cuda"):
        raise OptionError(f'attention="{name}" needs a GPU, got device="{device}". Use attention="sdpa".')
    if dtype not in (torch.float16, torch.bfloat16):
        raise OptionError(f'attention="{name}" needs float16 or bfloat16, got {dtype}. Use attention="sdpa".')
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        raise OptionError(
            f'attention="{name}" needs a GPU of compute capability 8.0, got {capability[0]}.{capability[1]}. '
            'Use attention="sdpa".'
        )


def gather_keys_values(pages: torch.Tensor, layout: StepLayout) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of all sequences, one after another: [n, K, D] each, n the sum of their lengths."""
    page, offset = layout.cached_slots
    gathered = pages[:, page, :, offset]  # [n, 2, K, D]: indices on both sides of a slice put their dimension first
    return gathered[:, 0], gathered[:, 1]


class FlashAttention:
    """`flash_attn_varlen_func` of flash-attn 2.1 and newer, which aligns its causal mask bottom-right.

    Its own paged form asks for pages of 256 tokens; ours hold 16.
    """

    def __init__(self) -> None:
        self._attend = importlib.import_module("flash_attn").flash_attn_varlen_func

    def __call__(self, q: torch.Tensor, pages: torch.Tensor, layout: StepLayout, scale: float) -> torch.Tensor:
        keys, values = gather_keys_values(pages, layout)
        out: torch.Tensor = self._attend(
            q,
            keys,
            values,
            cu_seqlens_q=layout.cu_seqlens,
            cu_seqlens_k=layout.cu_kv_lens,
            max_seqlen_q=max(layout.query_lens_host),
            max_seqlen_k=max(layout.kv_lens_host),
            softmax_scale=scale,
            causal=True,
        )
        return out


class Xformers:
    """xformers' `memory_efficient_attention_forward`, grouped heads as [1, T, K, H / K, D].

    The mask is `BlockDiagonalCausalFromBottomRightMask`; `BlockDiagonalCausalMask` would align top-left, and the new
    tokens of a chunk would not see the prefix. It is made once a step: making it copies lengths to the GPU.
    """

    def __init__(self) -> None:
        fmha = importlib.import_module("xformers.ops.fmha")
        self._attend = fmha.memory_efficient_attention_forward
        self._mask = fmha.attn_bias.BlockDiagonalCausalFromBottomRightMask
        self._last: tuple[StepLayout, Any] | None = None

    def __call__(self, q: torch.Tensor, pages: torch.Tensor, layout: StepLayout, scale: float) -> torch.Tensor:
        keys, values = (part[None, :, :, None] for part in gather_keys_values(pages, layout))  # [1, n, K, 1, D]
        group = q.shape[1] // pages.shape[2]
        out: torch.Tensor = self._attend(
            q.unflatten(1, (pages.shape[2], group))[None],
            keys.expand(-1, -1, -1, group, -1),
            values.expand(-1, -1, -1, group, -1),
            attn_bias=self._bias(layout),
            scale=scale,
        )
        return out[0].flatten(1, 2)

    def _bias(self, layout: StepLayout) -> Any:
        if self._last is None or self._last[0] is not layout:
            lengths = list(layout.query_lens_host), list(layout.kv_lens_host)
            self._last = layout, self._mask.from_seqlens(*lengths, device=layout.slots.device)
        return self._last[1]
