"""What doors refuse beyond the bad inputs that every op declares: values, Python types, and parts of packed weights.

A message names the argument, what it was and the rule. Values are read on a CPU only, where that waits for nothing.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from kernel_harness import DEVICE, full_case

import tte_kernels as tk
from tte_kernels import KernelInputError, KernelTypeError
from tte_kernels._case import Inputs
from tte_kernels._compare import as_tuple, equal_bits
from tte_kernels.registry import get_op

NAN, INF = float("nan"), float("inf")
on_cpu = pytest.mark.skipif(DEVICE != "cpu", reason="values are read on a CPU only")

# (op, argument, value, words): a wrong Python type
TYPES: list[tuple[str, str, Any, str]] = [
    *(
        (op, name, value, f"{name} must be a float, got {words}")
        for op, name in (
            ("rms_norm", "eps"),
            ("rope_write_kv", "eps"),
            ("decode_linear", "eps"),
            ("pool_normalize", "eps"),
            ("decode_attention", "scale"),
            ("extend_attention", "scale"),
        )
        for value, words in ((None, "None"), ("1", "'1'"), (True, "True"), (torch.ones(()), r"a tensor of shape \[\]"))
    ),
    *(
        (op, name, value, f"{name} must be an int, got {value!r}")
        for op, name in (
            ("rope_write_kv", "num_heads"),
            ("pool_normalize", "dim"),
            ("extend_attention", "max_query_len"),
        )
        for value in ("4", 4.0, True)
    ),
    ("rope_write_kv", "num_heads", None, "num_heads must be an int, got None"),
    ("extend_attention", "max_query_len", None, "max_query_len must be an int, got None"),
    *(
        (op, "swiglu", value, f"swiglu must be True or False, got {value!r}")
        for op in ("linear", "decode_linear")
        for value in ("yes", None, 1)
    ),
    ("pool_normalize", "normalize", 1, "normalize must be True, False or a torch.Tensor, got 1"),
    ("pool_normalize", "normalize", None, "normalize must be True, False or a torch.Tensor, got None"),
]


@pytest.mark.parametrize(("op", "name", "value", "words"), TYPES)
def test_a_wrong_python_type_is_named(op: str, name: str, value: Any, words: str) -> None:
    inputs = full_case(get_op(op)).make_inputs(0, "cpu", torch.float32)
    with pytest.raises(KernelTypeError, match=f"^{op}: {words}"):
        get_op(op).fn(**inputs | {name: value})


@pytest.mark.parametrize(("op", "name"), [("rms_norm", "eps"), ("decode_attention", "scale")])
@pytest.mark.parametrize("value", [INF, NAN, -1.0, 0])
def test_a_number_must_be_positive_and_finite(op: str, name: str, value: float) -> None:
    inputs = full_case(get_op(op)).make_inputs(0, "cpu", torch.float32)
    with pytest.raises(KernelInputError, match=f"{name} must be > 0 and finite, got {value}"):
        get_op(op).fn(**inputs | {name: value})


def test_numbers_of_numpy_are_numbers() -> None:
    for op, name, kind in (("rms_norm", "eps", np.float32), ("rope_write_kv", "num_heads", np.int64)):
        inputs = full_case(get_op(op)).make_inputs(0, DEVICE, torch.float32)
        want = as_tuple(get_op(op).fn(**inputs | {name: type(inputs[name])(kind(inputs[name]))}))
        got = as_tuple(get_op(op).fn(**inputs | {name: kind(inputs[name])}))
        assert all(equal_bits(left, right) for left, right in zip(got, want, strict=True))


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Inputs], Inputs]:
    return lambda inputs: inputs | {name: change(inputs[name])}


def with_last(name: str, value: float) -> Callable[[Inputs], Inputs]:
    """The inputs with another last element of one tensor."""
    return changed(name, lambda tensor: torch.cat((tensor[:-1], torch.full_like(tensor[-1:], value))))


VALUES: list[tuple[str, Callable[[Inputs], Inputs], str]] = [
    *(
        case
        for op in ("decode_attention", "extend_attention")
        for case in (
            (op, with_last("kv_lens", 10_000), r"kv_lens must be in 0..16 P = \d+, got 10000"),
            (op, changed("page_table", lambda table: table[:, :0]), "kv_lens must be in 0..16 P = 0, got"),
            (op, changed("page_table", lambda table: table + 50), r"page_table must be in 0..\d+, .* got 5"),
            (op, changed("page_table", lambda table: table - 50), r"page_table must be in 0..\d+, .* got -"),
            (op, changed("kv_pages", lambda pages: pages[:, :0]), "N of kv_pages must be >= 1, got 0"),
        )
    ),
    ("decode_attention", with_last("kv_lens", -1), "kv_lens must be in 0..16 P = .* got -1"),
    (
        "extend_attention",
        changed("kv_lens", torch.ones_like),
        "kv_lens must be at least the sequence's new tokens, got 1",
    ),
    ("extend_attention", with_last("cu_seqlens", 500), "cu_seqlens must go from 0 to T = .* got 0 to 500"),
    (
        "extend_attention",
        changed("cu_seqlens", lambda bounds: bounds + 1),
        "cu_seqlens must go from 0 to T = .*, got 1",
    ),
    ("rope_write_kv", with_last("slots", 10_000), r"slots must be in 0..N\*16-1 = \d+, got 10000"),
    ("rope_write_kv", with_last("slots", -1), "slots must be in 0.* got -1"),
    ("rope_write_kv", changed("kv_pages", lambda pages: pages[:, :0]), "N of kv_pages must be >= 1, got 0"),
    ("sample", with_last("temperature", -1.0), "temperature must be >= 0, got -1.0"),
    ("sample", with_last("temperature", NAN), "temperature must be >= 0, got nan"),
]


@on_cpu
@pytest.mark.parametrize(("op", "change", "words"), VALUES)
def test_a_value_out_of_range_is_named(op: str, change: Callable[[Inputs], Inputs], words: str) -> None:
    inputs = change(full_case(get_op(op)).make_inputs(0, "cpu", torch.float32))
    with pytest.raises(KernelInputError, match=f"^{op}: {words}"):
        get_op(op).fn(**inputs)


@on_cpu
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperature": -1.0}, "temperature must be >= 0, got -1.0"),
        ({"top_k": -1}, "top_k must be >= 0, got -1"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\], got 1.5"),
        ({"top_p": NAN}, r"top_p must be in \(0, 1\], got nan"),
    ],
)
def test_draws_from_logits_have_limits(change: dict[str, float], words: str) -> None:
    integers = ("seed", "position", "trace_index", "top_k")
    inputs: Inputs = dict.fromkeys(integers, torch.zeros(2, dtype=torch.int64))
    inputs |= {"temperature": torch.ones(2), "top_p": torch.ones(2), "stop_ids": torch.zeros(2, 0).long()}
    inputs |= {name: torch.full_like(inputs[name], value) for name, value in change.items()}
    with pytest.raises(KernelInputError, match=words):
        tk.sample_logits(torch.zeros(2, 5), **inputs)


def uneven(max_query_len: int) -> torch.Tensor:
    """Attention of two sequences of 4 and 36 new tokens."""
    q, pages = (
        torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((40, 2, 32), (2, 4, 1, 16, 32))
    )
    table = torch.tensor([[1, 0, 0], [1, 2, 3]], dtype=torch.int32)
    bounds, lens = torch.tensor([0, 4, 40], dtype=torch.int32), torch.tensor([4, 36], dtype=torch.int32)
    inputs = [tensor.to(DEVICE) for tensor in (q, pages, table, bounds, lens)]
    return tk.extend_attention(*inputs, scale=0.1, max_query_len=max_query_len)


@on_cpu
def test_a_max_query_len_that_would_leave_rows_unwritten_is_refused() -> None:
    with pytest.raises(KernelInputError, match="up to 36 new tokens must be >= 36, got 20"):
        uneven(20)


def test_a_generous_max_query_len_changes_nothing() -> None:
    assert equal_bits(uneven(36), uneven(10**6))


def test_scales_of_four_bits_may_not_be_strided() -> None:
    x = torch.ones(2, 300)
    packed = tk.pack(torch.randn(8, 300), "w4a16")
    for name in ("scale", "zero"):
        part = getattr(packed, name)
        strided = dataclasses.replace(packed, **{name: torch.cat((part, part), 1)[:, :8]})
        with pytest.raises(KernelInputError, match=f"packed.{name} must be contiguous"):
            tk.decode_linear(x, strided)


def test_what_is_no_packed_weight_is_named() -> None:
    weight = torch.ones(8, 32)
    for format in ("w2", None):
        odd = dataclasses.replace(tk.pack(weight), format=format)
        for call in (lambda odd=odd: tk.decode_linear(weight, odd), lambda odd=odd: tk.unpack(odd)):
            with pytest.raises(KernelInputError, match=f"packed.format must be one of .*, got {format!r}"):
                call()
    with pytest.raises(KernelTypeError, match="packed must be a PackedWeight, got a tensor"):
        tk.unpack(weight)
    with pytest.raises(KernelInputError, match=r"dtype must be one of .* got torch\.int8"):
        tk.unpack(tk.pack(weight), torch.int8)
    for format in ("w16", "w8a16", "w4a16"):
        with pytest.raises(KernelInputError, match="I of weight must be >= 1, got 0"):
            tk.pack(weight[:, :0], format)


def test_what_excludes_another_is_shown() -> None:
    inputs = full_case(get_op("rope_write_kv")).make_inputs(0, "cpu", torch.float32)
    norm = torch.ones(inputs["kv_pages"].shape[4])
    with pytest.raises(KernelInputError, match=r"both be None, got a tensor of shape \[\d+\] and None"):
        tk.rope_write_kv(**inputs | {"q_norm": norm, "k_norm": None})
    hidden, rows = torch.ones(3, 8), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(KernelInputError, match="exactly one of cu_seqlens and rows must be given, got both"):
        tk.pool_normalize(hidden, torch.tensor([0, 3], dtype=torch.int32), rows=rows)
    with pytest.raises(KernelTypeError, match="enabled must be True or False, got 'yes'"):
        tk.set_pdl("yes")  # type: ignore[arg-type]


def test_a_missing_triton_is_said() -> None:
    code = (
        "import sys\n"
        "sys.modules['triton'] = None\n"
        "import torch, tte_kernels\n"
        "try:\n"
        "    tte_kernels.rms_norm(torch.ones(2, 32), torch.ones(32), 1e-6)\n"
        "except tte_kernels.KernelBackendError as error:\n"
        "    print(error)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "rms_norm: Triton is not installed. Run: pip install triton" in result.stdout, result.stderr
