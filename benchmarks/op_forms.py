"""The torch form of every op: what `TorchOps` runs, called with the arguments of the op's own cases.

A form packs its weights when it is made and gives a call without arguments; its outputs stand in the order of the op's.
Knows the seam and the ops' argument names; knows no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from tte_kernels._case import Inputs
from tte_kernels.decode_linear.pack import unpack
from tte_kernels.sample.reference import scores
from tte_runtime.ops import Rotation, StepLayout, TorchOps
from tte_runtime.ops.layout import Pooling
from tte_runtime.ops.matrices import pack_matrix

__all__ = ["torch_form"]

Call = Callable[[], Any]
OPS = TorchOps()


def _swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def _linear(inputs: Inputs) -> Call:
    x, bias, residual = inputs["x"], inputs["bias"], inputs["residual"]
    matrix = pack_matrix(inputs["weight"], "w16")
    if inputs["swiglu"]:
        return lambda: _swiglu(matrix.times(x))
    if residual is not None and bias is None:
        return lambda: matrix.times_plus(x, residual)
    return lambda: matrix.times(x, bias) if residual is None else matrix.times(x, bias) + residual


def _decode_linear(inputs: Inputs) -> Call:
    """8 and 4 bit weights are unpacked when they are loaded: torch has no product that reads their forms."""
    x, bias, residual, norm = inputs["x"], inputs["bias"], inputs["residual"], inputs["norm_weight"]
    matrix = pack_matrix(unpack(inputs["packed"]).to(x.dtype), "w16")

    def call() -> torch.Tensor:
        normed = x if norm is None else OPS.rms_norm(x, norm, inputs["eps"])
        if residual is not None and bias is None and not inputs["swiglu"]:
            return matrix.times_plus(normed, residual)
        y = matrix.times(normed, bias)
        if inputs["swiglu"]:
            y = _swiglu(y)
        return y if residual is None else y + residual

    return call


def _rms_norm(inputs: Inputs) -> Call:
    x, residual = inputs["x"], inputs["residual"]

    def call() -> tuple[torch.Tensor, torch.Tensor]:
        total = x if residual is None else x + residual
        return OPS.rms_norm(total, inputs["weight"], inputs["eps"]), total

    return call


def _sample(inputs: Inputs) -> Call:
    matrix = pack_matrix(inputs["weight"], "w16")
    columns = [inputs[name] for name in ("temperature", "seed", "position", "trace_index")]
    greedy = bool((inputs["temperature"] == 0).all())

    def call() -> torch.Tensor:
        logits = matrix.times(inputs["hidden"]).float()
        return (logits if greedy else scores(logits, *columns)).argmax(-1)

    return call


def _rope_write_kv(inputs: Inputs) -> Call:
    """Rotates in place, so that only the first call's outputs mean something; the work of every call is the same."""
    slots, tokens = inputs["slots"], inputs["qkv"].shape[0]
    layout = _layout(slots, slots.new_zeros(tokens, 1), torch.ones_like(slots), decode=tokens == 1)
    names = ("num_heads", "q_norm", "k_norm", "eps")
    options = {name: inputs[name] for name in names if name in inputs}
    rotation = Rotation(inputs["cos"], inputs["sin"])
    return lambda: OPS.rope_write_kv(inputs["qkv"], rotation, inputs["kv_pages"], layout, **options)


def _extend_attention(inputs: Inputs) -> Call:
    lens = inputs["cu_seqlens"].diff()
    slots = torch.zeros(inputs["q"].shape[0], dtype=torch.int64, device=inputs["q"].device)
    layout = _layout(slots, inputs["page_table"], inputs["kv_lens"], decode=False, query_lens=lens)
    return lambda: OPS.attention(inputs["q"], inputs["kv_pages"], layout, scale=inputs["scale"])


def _decode_attention(inputs: Inputs) -> Call:
    slots = torch.zeros(inputs["q"].shape[0], dtype=torch.int64, device=inputs["q"].device)
    layout = _layout(slots, inputs["page_table"], inputs["kv_lens"], decode=True)
    return lambda: OPS.attention(inputs["q"], inputs["kv_pages"], layout, scale=inputs["scale"])


def _pool_normalize(inputs: Inputs) -> Call:
    hidden, rows = inputs["hidden"], inputs["rows"]
    device, width = hidden.device, inputs["dim"] or hidden.shape[1]
    bounds = inputs["cu_seqlens"].long() if rows is None else torch.arange(len(rows) + 1, device=device)
    norm = inputs["norm_weight"] if inputs["norm_weight"] is not None else hidden.new_ones(hidden.shape[1])
    dims, flags = inputs["dims"], inputs["normalize"]
    if dims is None:
        dims = torch.full((len(bounds) - 1,), width, dtype=torch.int32, device=device)
    if not isinstance(flags, torch.Tensor):
        flags = torch.full((len(bounds) - 1,), flags, device=device)
    pooling = Pooling(cu_seqlens=bounds, dims=dims, normalize=flags, mean=inputs["mode"] == "mean")

    def call() -> torch.Tensor:
        states = hidden if rows is None else hidden[rows]
        return OPS.pool_normalize(states, norm, inputs["eps"], pooling)[:, :width]

    return call


def _layout(
    slots: torch.Tensor,
    table: torch.Tensor,
    kv_lens: torch.Tensor,
    *,
    decode: bool,
    query_lens: torch.Tensor | None = None,
) -> StepLayout:
    lens = [1] * len(kv_lens) if query_lens is None else query_lens.tolist()
    starts = F.pad(torch.tensor(lens, device=slots.device).cumsum(0), (1, 0)).int()
    return StepLayout(decode, slots, table, starts, kv_lens, tuple(lens), tuple(kv_lens.tolist()))


_FORMS: dict[str, Callable[[Inputs], Call]] = {
    "decode_attention": _decode_attention,
    "decode_linear": _decode_linear,
    "extend_attention": _extend_attention,
    "linear": _linear,
    "pool_normalize": _pool_normalize,
    "rms_norm": _rms_norm,
    "rope_write_kv": _rope_write_kv,
    "sample": _sample,
}


def torch_form(op: str, inputs: Inputs) -> Call:
    """The form of that op on these inputs; raises KeyError for an op without one."""
    return _FORMS[op](inputs)
