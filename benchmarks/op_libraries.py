"""Library kernels that a user would pick on a GPU, on the inputs of an op's case: flash-attn, xformers, Liger.

Only what is installed takes part, and only where the library serves the shape without copying first. Keys and values
that lie in pages are gathered before the clock runs, which favours the library. Knows no clock.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from tte_kernels._case import Inputs

__all__ = ["libraries_of"]

Calls = dict[str, Callable[[], Any]]


def dense_kv(inputs: Inputs) -> torch.Tensor:
    """Keys and values of all sequences out of their pages: [2, S, L, K, D], L the longest."""
    pages = inputs["kv_pages"][:, inputs["page_table"].long()]  # [2, S, P, K, 16, D]
    return pages.transpose(3, 4).flatten(2, 3)[:, :, : int(inputs["kv_lens"].max())].contiguous()


def _extend_attention(inputs: Inputs) -> Calls:
    """One sequence without a prefix: elsewhere the libraries' causal masks are other ones."""
    q, tokens = inputs["q"], inputs["q"].shape[0]
    if inputs["kv_lens"].tolist() != [tokens]:
        return {}
    k, v = dense_kv(inputs)[:, :, :tokens]
    found: Calls = {}
    if flash := _module("flash_attn"):
        found["flash-attn"] = lambda: flash.flash_attn_func(q[None], k, v, softmax_scale=inputs["scale"], causal=True)
    if ops := _module("xformers.ops"):
        heads = k.shape[2]
        grouped = q.unflatten(1, (heads, -1))[None]  # [1, T, K, H / K, D], as xformers takes grouped heads
        wide_k, wide_v = (x[:, :, :, None].expand(-1, -1, -1, grouped.shape[3], -1) for x in (k, v))
        mask = ops.LowerTriangularMask()
        found["xformers"] = lambda: ops.memory_efficient_attention(
            grouped, wide_k, wide_v, attn_bias=mask, scale=inputs["scale"]
        )[0].flatten(1, 2)
    return found


def _decode_attention(inputs: Inputs) -> Calls:
    flash = _module("flash_attn")
    if not flash or not int(inputs["kv_lens"].min()):
        return {}
    k, v = dense_kv(inputs)
    q, lens = inputs["q"][:, None], inputs["kv_lens"]
    return {
        "flash-attn": lambda: flash.flash_attn_with_kvcache(
            q, k, v, cache_seqlens=lens, softmax_scale=inputs["scale"], causal=True
        )[:, 0]
    }


def _rms_norm(inputs: Inputs) -> Calls:
    liger = _module("liger_kernel.transformers.functional")
    if not liger or inputs["residual"] is not None:
        return {}
    return {"liger": lambda: liger.liger_rms_norm(inputs["x"], inputs["weight"], inputs["eps"])}


def _module(name: str) -> Any:
    """The module, or None where its package is not installed or no CUDA device is there to run it on."""
    if not torch.cuda.is_available() or importlib.util.find_spec(name.split(".")[0]) is None:
        return None
    return importlib.import_module(name)


_LIBRARIES: dict[str, Callable[[Inputs], Calls]] = {
    "decode_attention": _decode_attention,
    "extend_attention": _extend_attention,
    "rms_norm": _rms_norm,
}


def libraries_of(op: str, inputs: Inputs) -> Calls:
    """Calls without arguments by the library's name; empty where none serves these inputs here."""
    build = _LIBRARIES.get(op)
    return build(inputs) if build else {}
