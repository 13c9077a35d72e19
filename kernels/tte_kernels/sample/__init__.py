"""sample: the next token of each row, and whether it ends the row, from hidden states, without ever writing logits.

    logit[s, v] = hidden[s] . weight[v]                                   fp32 accumulation, not rounded
    temperature 0:  id[s] = argmax_v logit[s, v]
    temperature t:  id[s] = argmax_v (logit[s, v] / t + gumbel(seed[s], trace_index[s], position[s], v))
    stops[s] = 1 if id[s] is one of stop_ids[s], else 0

The second is an exact draw from softmax(logit / t) (the Gumbel-max trick; fused with the lm_head in
FlashSampling, arXiv:2603.15854). Ties go to the lowest id. The noise is a pure function of its four
arguments, see `reference.py`, so a request draws the same whoever sits beside it. NaN logits lose to every
number, and an id is always in 0..V-1. Stops are checked in the same launch, so a device that draws also knows
who has ended. This file is the door; it does not know tiles or requests. top-k and top-p take `sample_logits`.
"""

from __future__ import annotations

from typing import Any

import torch

from tte_kernels._check import FLOAT_DTYPES, check_int, check_packed, check_tensor, check_values, on_host
from tte_kernels._launch import launcher
from tte_kernels.sample.reference import sample_logits as _sample_logits

__all__ = ["launch", "sample", "sample_logits"]


def sample(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    temperature: torch.Tensor,
    seed: torch.Tensor,
    position: torch.Tensor,
    trace_index: torch.Tensor,
    stop_ids: torch.Tensor,
) -> torch.Tensor:
    """One token id a row, and whether it ends the row.

    Args:
        hidden: [S, C] float32, float16 or bfloat16, after the final norm; rows may be strided.
        weight: [V, C], dtype of hidden, contiguous: the lm_head. V < 2^31.
        temperature: [S] float32, >= 0; 0 is greedy.
        seed: [S] int64, any value.
        position: [S] int64, position of the drawn token in its sequence; only its low 32 bits count.
        trace_index: [S] int64, number of the trace within its request; only its low 32 bits count.
        stop_ids: [S, N] int64, contiguous, the ids that end each row; N may be 0, and -1 stands for none.

    Returns:
        [S, 2] int64: the id, and 1 if it is one of the row's stop ids, else 0.

    Raises:
        KernelTypeError: a wrong dtype or type.
        KernelInputError: a wrong shape, stride or device, or an empty vocabulary; a temperature that is negative or
            NaN, where it is on the CPU.
        KernelBackendError: nothing can run it here.
    """
    check_tensor("sample", "hidden", hidden, ("S", "C"), FLOAT_DTYPES)
    check_tensor("sample", "weight", weight, ("V", hidden.shape[1]), (hidden.dtype,), hidden.device)
    check_packed("sample", "weight", weight)
    check_int("sample", "V of weight", weight.shape[0], 1, 2**31 - 1)
    check_int("sample", "C of weight", weight.shape[1], 1)
    _check_draws("sample", hidden, temperature, seed, position, trace_index, stop_ids)
    drawn: torch.Tensor = torch.ops.tte.sample(hidden, weight, temperature, seed, position, trace_index, stop_ids)
    return drawn


def sample_logits(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    seed: torch.Tensor,
    position: torch.Tensor,
    trace_index: torch.Tensor,
    stop_ids: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
) -> torch.Tensor:
    """The unfused form, in torch on any device: draws the same noise as `sample`, after top-k, then top-p.

    Args:
        logits: [S, V] float32, float16 or bfloat16.
        temperature, seed, position, trace_index, stop_ids: as for `sample`.
        top_k: [S] int64, >= 0, tokens kept; 0 keeps all. Ties at the border go to the lowest id, exactly k are
            kept.
        top_p: [S] float32 in (0, 1]: of those, the fewest most probable tokens whose probabilities (after
            temperature and top-k) sum to at least top_p; 1 keeps all.

    Returns:
        [S, 2] int64, as for `sample`.

    Raises:
        KernelTypeError: a wrong dtype or type.
        KernelInputError: a wrong shape or device, or an empty vocabulary; a temperature, top_k or top_p outside its
            range, where it is on the CPU.
    """
    check_tensor("sample_logits", "logits", logits, ("S", "V"), FLOAT_DTYPES)
    check_int("sample_logits", "V of logits", logits.shape[1], 1)
    _check_draws("sample_logits", logits, temperature, seed, position, trace_index, stop_ids)
    for name, tensor, dtype in (("top_k", top_k, torch.int64), ("top_p", top_p, torch.float32)):
        check_tensor("sample_logits", name, tensor, (logits.shape[0],), (dtype,), logits.device)
    if on_host(logits):
        _check_temperature("sample_logits", temperature)
        check_values("sample_logits", "top_k", top_k, top_k >= 0, ">= 0")
        check_values("sample_logits", "top_p", top_p, (top_p > 0) & (top_p <= 1), "in (0, 1]")
    return _sample_logits(logits, temperature, seed, position, trace_index, stop_ids, top_k, top_p)


def _check_draws(
    op: str,
    rows: torch.Tensor,
    temperature: torch.Tensor,
    seed: torch.Tensor,
    position: torch.Tensor,
    trace_index: torch.Tensor,
    stop_ids: torch.Tensor,
) -> None:
    """Checks the per-row arguments of a draw against the first argument."""
    num_rows = rows.shape[0]
    check_tensor(op, "temperature", temperature, (num_rows,), (torch.float32,), rows.device)
    for name, tensor in (("seed", seed), ("position", position), ("trace_index", trace_index)):
        check_tensor(op, name, tensor, (num_rows,), (torch.int64,), rows.device)
    check_tensor(op, "stop_ids", stop_ids, (num_rows, "N"), (torch.int64,), rows.device)
    check_packed(op, "stop_ids", stop_ids)


def _check_temperature(op: str, temperature: torch.Tensor) -> None:
    """A negative one would be greedy in the kernel and a draw in the reference."""
    check_values(op, "temperature", temperature, temperature >= 0, ">= 0")


@torch.library.custom_op("tte::sample", mutates_args=())
def _sample(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    temperature: torch.Tensor,
    seed: torch.Tensor,
    position: torch.Tensor,
    trace_index: torch.Tensor,
    stop_ids: torch.Tensor,
) -> torch.Tensor:
    if on_host(temperature):
        _check_temperature("sample", temperature)
    return launcher("sample")(hidden, weight, temperature, seed, position, trace_index, stop_ids)


@_sample.register_fake
def _(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    temperature: torch.Tensor,
    seed: torch.Tensor,
    position: torch.Tensor,
    trace_index: torch.Tensor,
    stop_ids: torch.Tensor,
) -> torch.Tensor:
    return hidden.new_empty((hidden.shape[0], 2), dtype=torch.int64)


def __getattr__(name: str) -> Any:
    """`launch` is the kernel's launcher: no checks, no dispatcher. Fetched lazily, as it imports Triton."""
    if name == "launch":
        return launcher("sample")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
