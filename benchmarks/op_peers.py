"""What the kernels are held against: the same work through torch's own libraries, on the same inputs.

A peer says its name and gives a call without arguments. Where a library refuses the shape, the run records
its error; nothing else is tried in its place. Does not know how anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from tte_kernels._case import Case, Inputs

__all__ = ["peers_of"]

Peers = dict[str, Callable[[], Any]]


def _swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def _linear(inputs: Inputs, case: Case) -> Peers:
    """The whole, and cuBLAS alone where the rest is a launch of its own."""
    x, weight, bias, residual = inputs["x"], inputs["weight"], inputs.get("bias"), inputs.get("residual")
    product = partial(F.linear, x, weight, bias)
    if residual is None and not inputs["swiglu"]:
        return {"F.linear": product}
    whole = (lambda: _swiglu(product())) if residual is None else (lambda: product() + residual)
    return {"F.linear": whole, "F.linear alone": product}


def _decode_linear(inputs: Inputs, case: Case) -> Peers:
    """The product alone, in 16-bit weights: norm, residual and SwiGLU would each be a launch more."""
    x = inputs["x"]
    weight = torch.randn(case.dims["O"], case.dims["I"], device=x.device, dtype=x.dtype)
    return {"F.linear alone": lambda: F.linear(x, weight)}


def _rms_norm(inputs: Inputs, case: Case) -> Peers:
    x, weight, eps, residual = inputs["x"], inputs["weight"], inputs["eps"], inputs["residual"]

    def call() -> torch.Tensor:
        return F.rms_norm(x if residual is None else x + residual, weight.shape, weight, eps)

    return {"F.rms_norm": call}


def _sample(inputs: Inputs, case: Case) -> Peers:
    return {"F.linear + argmax": lambda: F.linear(inputs["hidden"], inputs["weight"]).argmax(-1)}


def _extend_attention(inputs: Inputs, case: Case) -> Peers:
    """SDPA on dense tensors, for one sequence without a prefix; elsewhere its causal mask is another one."""
    num_tokens = inputs["q"].shape[0]
    if inputs["kv_lens"].shape[0] != 1 or int(inputs["kv_lens"][0]) != num_tokens:
        return {}
    pages = inputs["kv_pages"][:, inputs["page_table"][0].long()]  # [2, P, K, 16, D]
    dense = pages.transpose(2, 3).flatten(1, 2)[:, :num_tokens].transpose(1, 2).contiguous()
    q, k, v = inputs["q"].transpose(0, 1)[None].contiguous(), dense[0][None], dense[1][None]

    def call(backend: SDPBackend) -> torch.Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=inputs["scale"], enable_gqa=True)[
                0
            ].transpose(0, 1)

    backends = {"sdpa-flash": SDPBackend.FLASH_ATTENTION, "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION}
    return {name: partial(call, backend) for name, backend in backends.items()}


_PEERS: dict[str, Callable[[Inputs, Case], Peers]] = {
    "decode_linear": _decode_linear,
    "extend_attention": _extend_attention,
    "linear": _linear,
    "rms_norm": _rms_norm,
    "sample": _sample,
}


def peers_of(op: str, inputs: Inputs, case: Case) -> Peers:
    """Peers of one op for one set of inputs, by name; empty where torch has nothing comparable."""
    build = _PEERS.get(op)
    return build(inputs, case) if build else {}
