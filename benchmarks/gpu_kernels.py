"""The kernels' stages of benchmarks.gpu: parity and equal bits of every case, the copy ceiling, and the time of each.

What fails its parity is not timed, and what was timed before a later case of its op failed is withheld. Knows no op:
it reads the registry. Knows no order of stages and no table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from benchmarks.core import graph_timing
from benchmarks.core.results import Results, Row
from benchmarks.core.work import Item
from benchmarks.op_libraries import libraries_of
from benchmarks.op_peers import peers_of
from tte_kernels._case import Case, Inputs, Op
from tte_kernels._compare import invariance_error, parity_error

__all__ = ["bits_items", "ceiling_item", "kernel_items", "measure", "parity_items", "shown"]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
REFUSALS = (
    RuntimeError,
    TypeError,
    ValueError,
    AssertionError,
    ImportError,
)  # by which a library says "not this shape"


def _parity(op: Op, case: Case, dtype: torch.dtype) -> dict[str, Any]:
    error = parity_error(op, case, "cuda", dtype)
    torch.cuda.synchronize()
    return {"ok": not error, "error": error}


def _bits(op: Op, case: Case) -> dict[str, Any]:
    error = invariance_error(op, case, "cuda", torch.bfloat16)
    return {"ok": not error, "error": error}


def bits_items(ops: Sequence[Op]) -> Iterator[Item]:
    """Every case in bf16 of the ops that have rows, small cases first."""
    for tag in ("ci", "model"):
        for op in ops:
            for case in op.cases:
                if case.tag == tag and op.take_rows is not None and torch.bfloat16 in case.dtypes:
                    yield Item("bits", f"{op.name}/{case.name}", partial(_bits, op, case))


def parity_items(ops: Sequence[Op]) -> Iterator[Item]:
    """bf16, which is served, on the small cases and then on the models'; fp16 and fp32 on the small ones."""
    for name, tag in (("bf16", "ci"), ("bf16", "model"), ("fp16", "ci"), ("fp32", "ci")):
        for op in ops:
            for case in op.cases:
                if case.tag == tag and DTYPES[name] in case.dtypes:
                    key = f"{op.name}/{case.name}/{name}"
                    yield Item("parity", key, partial(_parity, op, case, DTYPES[name]))


def ceiling_item() -> Item:
    """What the kernels are a share of; before any of them."""
    return Item("ceiling", "copy", lambda: {"ok": True, **graph_timing.copy_ceiling()})


def kernel_items(ops: Sequence[Op], results: Results) -> Iterator[Item]:
    """Every model shape."""
    for op in ops:
        for case in op.cases:
            if case.tag == "model" and torch.bfloat16 in case.dtypes:
                yield Item("kernels", f"{op.name}/{case.name}", partial(measure, op, case, results))


def shown(results: Results) -> dict[str, Row]:
    """Rows of the kernels' stage; those of an op of which any case failed its parity, even later, without a time."""
    failed = {key.split("/")[0]: key for key, row in results.stage("parity").items() if not row["ok"]}
    return {
        key: {"ok": False, "error": f"not timed, parity failed: {failed[op]}"}
        if (op := key.split("/")[0]) in failed
        else row
        for key, row in results.stage("kernels").items()
    }


def measure(op: Op, case: Case, results: Results) -> dict[str, Any]:
    """Times one shape and its peers; says why where it must not be timed."""
    proofs = {key: row for key, row in results.stage("parity").items() if key.startswith(f"{op.name}/")}
    failed = [key for key, row in proofs.items() if not row["ok"]]
    if failed:
        return {"ok": False, "error": f"not timed, parity failed: {', '.join(failed[:3])}"}
    ceiling = results.get("ceiling", "copy")
    assert ceiling is not None, "the ceiling is measured before the kernels"
    if not ceiling["ok"]:
        return {"ok": False, "error": f"not timed, no ceiling to hold it against: {ceiling['error']}"}
    assert f"{op.name}/{case.name}/bf16" in proofs, "a shape is proven before it is timed"
    copies, l2_cold = _copies(case)
    timing = graph_timing.time_calls([partial(op.fn, **inputs) for inputs in copies])
    moved = case.bytes_of(torch.bfloat16)
    gb_per_s = moved / timing.p50 / 1e3
    return {
        "ok": True,
        **{f"us_{name}": value for name, value in asdict(timing).items() if name != "calls"},
        "bytes": moved,
        "flops": case.flops,
        "gb_per_s": gb_per_s,
        "tflop_per_s": case.flops / timing.p50 / 1e6,
        "share_of_copy": gb_per_s / ceiling["gb_per_s"],
        "copies": len(copies),
        "l2_cold": l2_cold,
        "peers": time_peers(op, case, copies, graph_timing.time_calls),
    }


def _copies(case: Case) -> tuple[list[Inputs], bool]:
    """Inputs to rotate, and whether they are twice the L2 cache together."""
    first = case.make_inputs(0, "cuda", torch.bfloat16)
    size, l2 = graph_timing.nbytes(first), torch.cuda.get_device_properties(0).L2_cache_size
    count = graph_timing.copies_for(size, l2, torch.cuda.mem_get_info()[0])
    copies = [first, *(case.make_inputs(seed, "cuda", torch.bfloat16) for seed in range(1, count))]
    return copies, count * size >= 2 * l2


def time_peers(
    op: Op,
    case: Case,
    copies: Sequence[Inputs],
    time_calls: Callable[[Sequence[Callable[[], Any]]], graph_timing.Timing],
) -> dict[str, dict[str, Any]]:
    """Microseconds of torch's own libraries and of those that are installed, by name; or why one has none."""
    found: dict[str, dict[str, Any]] = {}
    sources = {"torch": partial(peers_of, op.name, case=case), "libraries": partial(libraries_of, op.name)}
    for source, build in sources.items():
        try:
            rotated = [build(inputs=inputs) for inputs in copies]
        except REFUSALS as error:
            found[source] = {"error": _first_line(error)}
            continue
        for name in rotated[0]:
            try:
                found[name] = {"us_p50": time_calls([peers[name] for peers in rotated]).p50}
            except REFUSALS as error:
                found[name] = {"error": _first_line(error)}
    return found


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
