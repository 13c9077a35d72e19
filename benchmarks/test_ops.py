"""Every op on real shapes: our kernel where there is a GPU, its torch form, and the libraries' kernels.

    pytest benchmarks --benchmark-only

Parity comes first, in the same test; what fails it is not timed. At least 8 copies of the inputs take turns, twice
what the last cache holds together, so that weights are cold as they are in a model. On a GPU a call is a CUDA graph of
all copies, and its time is divided among them. Reads the registry of tte_kernels; knows no op.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from benchmarks.conftest import Ceiling
from benchmarks.core.graph_timing import Captured, copies_for, nbytes
from benchmarks.core.results import Results
from benchmarks.op_forms import torch_form
from benchmarks.op_libraries import libraries_of
from benchmarks.op_peers import peers_of
from tte_kernels._case import Case, Inputs, Op
from tte_kernels._compare import as_tuple, difference, run
from tte_kernels.registry import OPS

FORM, OURS = "torch form", "ours"
QUICK = "tte_tiny"
ROOM = 4 << 30  # bytes that copies may take twice over
LIBRARIES = {
    "linear": ("F.linear",),
    "decode_linear": ("F.linear alone",),
    "rms_norm": ("F.rms_norm", "liger"),
    "sample": ("F.linear + argmax",),
    "extend_attention": ("sdpa-flash", "sdpa-cudnn", "flash-attn", "xformers"),
    "decode_attention": ("flash-attn",),
}
A_PART = ("F.linear alone", "F.linear + argmax")  # do less than the op, on purpose: a lower bound, not an equal

Call = Callable[[], Any]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test an op, case and way to run it; off a GPU, torch's own products and norms are all the libraries."""
    quick, gpu = metafunc.config.getoption("--op-shapes") == "quick", torch.cuda.is_available()
    found = []
    for op in OPS:
        libraries = [name for name in LIBRARIES.get(op.name, ()) if gpu or name.startswith("F.")]
        cases = [c for c in op.cases if c.tag == "model" and (c.name.startswith(QUICK) or not quick)]
        found += [(op, case, way) for case in cases for way in ([OURS] * gpu + [FORM, *libraries])]
    metafunc.parametrize(("op", "case", "way"), found, ids=[f"{op.name}/{case.name}/{way}" for op, case, way in found])


def call_of(op: Op, case: Case, way: str, inputs: Inputs) -> Call | None:
    """What is timed on these inputs; None where the library is not here or does not serve them."""
    if way == OURS:
        return lambda: op.fn(**inputs)
    if way == FORM:
        return torch_form(op.name, inputs)
    return (peers_of(op.name, inputs, case) | libraries_of(op.name, inputs)).get(way)


def parity_of(op: Op, case: Case, way: str, device: str, dtype: torch.dtype) -> str:
    """How a way differs from the op's reference; empty if it does not."""
    if way in A_PART:
        return ""
    inputs, same = (case.make_inputs(0, device, dtype) for _ in range(2))
    call = call_of(op, case, way, inputs)
    assert call is not None
    outputs = as_tuple(call())
    if op.shortfall is not None:
        short = float(op.shortfall(inputs, outputs).max())
        return "" if short <= op.tolerance[dtype].atol else f"chosen ids fall short of the best by {short:.3g}"
    got = (*outputs, *(inputs[name] for name in op.mutates))
    wanted = run(op.reference, op, same)
    pairs = zip(got, wanted, strict=way in (OURS, FORM))  # a library may return less
    return "; ".join(words for a, b in pairs if (words := difference(op, dtype, a, b)))


@pytest.mark.benchmark(max_time=0.1, min_rounds=20, warmup=True, warmup_iterations=3)
def test_op(
    op: Op,
    case: Case,
    way: str,
    benchmark: Any,
    device: str,
    dtype: torch.dtype,
    ceiling: Ceiling,
    last_cache: int,
    rows: Results,
) -> None:
    """Judge one way of one case, then time it."""
    if dtype not in case.dtypes:
        pytest.skip(f"{case.name} has no case in {dtype}")
    if call_of(op, case, way, case.make_inputs(0, device, dtype)) is None:
        pytest.skip(f"{way} is not installed here, or does not serve this case")
    if words := parity_of(op, case, way, device, dtype):
        pytest.fail(f"not timed, parity failed: {words}")
    count = copies_for(nbytes(case.make_inputs(0, device, dtype)), last_cache, ROOM)
    copies = [call_of(op, case, way, case.make_inputs(seed, device, dtype)) for seed in range(count)]
    seconds = _time(benchmark, [call for call in copies if call is not None], device)
    gb_per_s, tflop_per_s = case.bytes_of(dtype) / seconds / 1e9, case.flops / seconds / 1e12
    figures = {
        "way": way,
        "us_p50": 1e6 * seconds,
        "gb_per_s": gb_per_s,
        "tflop_per_s": tflop_per_s,
        "share_of_bandwidth": gb_per_s / ceiling.gb_per_s,
        "share_of_flops": tflop_per_s / ceiling.tflop_per_s,
        "bytes": case.bytes_of(dtype),
        "flops": case.flops,
        "copies": count,
    }
    benchmark.extra_info.update(figures)
    setting = {"op": op.name, "case": case.name, "dtype": str(dtype).removeprefix("torch.")}
    roof = {"ceiling_gb_per_s": ceiling.gb_per_s, "ceiling_tflop_per_s": ceiling.tflop_per_s}
    samples = [1e3 * value for value in benchmark.stats.stats.sorted_data[:200]]
    rows.add("ops", f"{op.name}/{case.name}/{way}", {"ok": True, **setting, **figures, **roof, "ms": samples})


def _time(benchmark: Any, calls: Sequence[Call], device: str) -> float:
    """Median seconds of a call, the copies taking turns."""
    if device == "cuda":
        captured = Captured(calls)
        benchmark(captured.run)
        return float(benchmark.stats.stats.median) / captured.count
    turn = itertools.cycle(calls)
    benchmark(lambda: next(turn)())
    return float(benchmark.stats.stats.median)
