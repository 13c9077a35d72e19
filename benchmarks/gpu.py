"""One command for a device: proves every kernel on it, then measures them.

    python -m benchmarks.gpu --budget 480 --out DIR

Stages, in order: `parity` (every case of every op against its reference, in bf16 first), `bits` (rows alone and
among others have equal bits, in bf16), `ceiling` (bandwidth of a copy), `kernels` (time of every model shape in
bf16, L2-cold, in a CUDA graph, as a share of that ceiling, beside torch's own libraries). An op whose parity failed
is not timed. Each result is appended to DIR/gpu.jsonl as it comes; when the budget is spent the command ends with
status 3, and the same command goes on from there. Progress goes to stderr, the table to stdout. Needs a GPU. It does
not know any op: it reads the registry of tte_kernels.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT / "kernels") not in sys.path:
    sys.path.append(str(ROOT / "kernels"))  # from a clone that was not installed; an installed copy comes first

from benchmarks import _peers, _timing  # noqa: E402
from benchmarks._results import Results  # noqa: E402
from tte_kernels import set_pdl  # noqa: E402
from tte_kernels._case import Case, Op  # noqa: E402
from tte_kernels._compare import invariance_error, parity_error  # noqa: E402
from tte_kernels.registry import OPS  # noqa: E402

__all__ = ["Item", "main", "run_items", "table"]

INCOMPLETE = 3
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Item:
    """One piece of work: `work` returns what the row of (stage, key) says."""

    stage: str
    key: str
    work: Callable[[], dict[str, Any]]


def machine(pdl: bool) -> dict[str, Any]:
    """What identifies a row: device, driver-visible versions, commit, and whether PDL was on."""
    import triton

    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout.strip()
    return {
        "device": torch.cuda.get_device_name(),
        "capability": list(torch.cuda.get_device_capability()),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "commit": (commit or "unknown") + ("+changes" if changed else ""),
        "pdl": pdl,
    }


def _parity(op: Op, case: Case, dtype: torch.dtype) -> dict[str, Any]:
    error = parity_error(op, case, "cuda", dtype)
    torch.cuda.synchronize()
    return {"ok": not error, "error": error}


def _bits(op: Op, case: Case) -> dict[str, Any]:
    error = invariance_error(op, case, "cuda", torch.bfloat16)
    return {"ok": not error, "error": error}


def bits_items(ops: Sequence[Op]) -> Iterator[Item]:
    """Every case in bf16 of the ops that have rows."""
    for op in ops:
        for case in op.cases:
            if op.take_rows is not None and torch.bfloat16 in case.dtypes:
                yield Item("bits", f"{op.name}/{case.name}", partial(_bits, op, case))


def parity_items(ops: Sequence[Op]) -> Iterator[Item]:
    """bf16 on all cases (what is served), then fp16 and fp32 on the small ones."""
    for name, dtype in DTYPES.items():
        for op in ops:
            for case in op.cases:
                if dtype in case.dtypes and (case.tag == "ci" or dtype == torch.bfloat16):
                    key = f"{op.name}/{case.name}/{name}"
                    yield Item("parity", key, partial(_parity, op, case, dtype))


def parity_failures(results: Results, op: str) -> list[str]:
    """Keys of the op's parity rows that failed."""
    return [key for key, row in results.stage("parity").items() if key.startswith(f"{op}/") and not row["ok"]]


def _measure(op: Op, case: Case, results: Results) -> dict[str, Any]:
    """Times one shape and its peers; says why where it must not be timed."""
    failed = parity_failures(results, op.name)
    if failed:
        return {"ok": False, "error": f"not timed, parity failed: {', '.join(failed[:3])}"}
    dtype = torch.bfloat16
    first = case.make_inputs(0, "cuda", dtype)
    size, l2 = _timing.nbytes(first), torch.cuda.get_device_properties(0).L2_cache_size
    count = _timing.copies_for(size, l2, torch.cuda.mem_get_info()[0])
    copies = [first, *(case.make_inputs(seed, "cuda", dtype) for seed in range(1, count))]
    timing = _timing.time_calls([partial(op.fn, **inputs) for inputs in copies])
    moved, ceiling = case.bytes_of(dtype), results.get("ceiling", "copy")
    assert ceiling is not None
    gb_per_s = moved / timing.p50 / 1e3
    row: dict[str, Any] = {
        "ok": True,
        **{f"us_{name}": value for name, value in asdict(timing).items() if name != "calls"},
        "bytes": moved,
        "flops": case.flops,
        "gb_per_s": gb_per_s,
        "tflop_per_s": case.flops / timing.p50 / 1e6,
        "share_of_copy": gb_per_s / ceiling["gb_per_s"],
        "copies": count,
        "l2_cold": count * size >= 2 * l2,
        "peers": {},
    }
    rotated = [_peers.peers_of(op.name, inputs, case) for inputs in copies]
    for name in rotated[0]:
        try:
            row["peers"][name] = {"us_p50": _timing.time_calls([peers[name] for peers in rotated]).p50}
        except (RuntimeError, TypeError) as error:  # the library has no kernel for this shape
            row["peers"][name] = {"error": str(error).splitlines()[0]}
    return row


def kernel_items(ops: Sequence[Op], results: Results) -> Iterator[Item]:
    """The copy ceiling, then every model shape."""
    yield Item("ceiling", "copy", lambda: {"ok": True, **_timing.copy_ceiling()})
    for op in ops:
        for case in op.cases:
            if case.tag == "model" and torch.bfloat16 in case.dtypes:
                yield Item("kernels", f"{op.name}/{case.name}", partial(_measure, op, case, results))


def run_items(
    items: Sequence[Item], results: Results, budget: float, clock: Callable[[], float] = time.monotonic
) -> int:
    """Does what is not done yet until `budget` seconds are spent; returns how many items are left.

    An exception becomes the row's error, and the run goes on; after a CUDA error, which poisons the process,
    it is recorded and raised, so that the next run starts behind it.
    """
    start = clock()
    for number, item in enumerate(items, start=1):
        if results.get(item.stage, item.key) is not None:
            continue
        if clock() - start >= budget:
            return sum(results.get(left.stage, left.key) is None for left in items)
        try:
            row = results.add(item.stage, item.key, item.work())
        except Exception as error:
            row = results.add(item.stage, item.key, {"ok": False, "error": f"{type(error).__name__}: {error}"})
            if "CUDA error" in str(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        verdict = "ok" if row["ok"] else row["error"]
        print(f"[{number}/{len(items)}] {item.stage} {item.key} {verdict}", file=sys.stderr, flush=True)
    return 0


def table(results: Results) -> str:
    """The kernel table in Markdown: what was measured, nothing for what was not."""
    ceiling = results.get("ceiling", "copy")
    parity = results.stage("parity")
    failed = [key for key, row in parity.items() if not row["ok"]]
    lines = [f"{results.machine['device']}; parity: {len(parity) - len(failed)} of {len(parity)} cases"]
    lines += [f"- parity failed: {key}: {parity[key]['error']}" for key in failed]
    bits = results.stage("bits")
    uneven = [key for key, row in bits.items() if not row["ok"]]
    lines.append(f"equal bits: {len(bits) - len(uneven)} of {len(bits)} cases")
    lines += [f"- bits differ: {key}: {bits[key]['error']}" for key in uneven]
    if ceiling is None:
        return "\n".join(lines)
    lines += [f"copy ceiling: {ceiling['gb_per_s']:.0f} GB/s", ""]
    lines += [
        "| op/case | us p50 (p20-p80) | GB/s | of copy | TFLOP/s | L2 | peers, us |",
        "|---|---|---:|---:|---:|---|---|",
    ]
    for key, row in results.stage("kernels").items():
        if not row["ok"]:
            lines.append(f"| {key} | {row['error']} | | | | | |")
            continue
        peers = ", ".join(
            f"{name} {peer['us_p50']:.1f}" if "us_p50" in peer else f"{name}: {peer['error']}"
            for name, peer in row["peers"].items()
        )
        spread = f"{row['us_p50']:.1f} ({row['us_p20']:.1f}-{row['us_p80']:.1f})"
        rates = f"{row['gb_per_s']:.0f} | {row['share_of_copy']:.0%} | {row['tflop_per_s']:.1f}"
        lines.append(f"| {key} | {spread} | {rates} | {'cold' if row['l2_cold'] else 'warm'} | {peers} |")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=480.0, help="seconds after which no new work begins (480)")
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu.jsonl; the same folder resumes")
    parser.add_argument("--ops", default="", help="comma-separated names; default: all")
    parser.add_argument("--pdl", action="store_true", help="programmatic dependent launch (compute capability 9.0)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status: 0 complete, 1 a proof failed, 2 refused, 3 work is left."""
    arguments = _parser().parse_args(argv)
    known = {op.name: op for op in OPS}
    names = arguments.ops.split(",") if arguments.ops else list(known)
    unknown = sorted(set(names) - set(known))
    if unknown:
        print(f"--ops must be among {', '.join(known)}, got {', '.join(unknown)}.", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        print("benchmarks.gpu needs a GPU that torch can see; there is none here.", file=sys.stderr)
        return 2
    if arguments.pdl:
        set_pdl(True)
    results = Results(arguments.out / "gpu.jsonl", machine(arguments.pdl))
    ops = [known[name] for name in names]
    items = [*parity_items(ops), *bits_items(ops), *kernel_items(ops, results)]
    left = run_items(items, results, arguments.budget)
    print(table(results))
    if left:
        print(f"{left} items left: run the same command again.", file=sys.stderr)
        return INCOMPLETE
    proofs = [results.get(item.stage, item.key) for item in items if item.stage in ("parity", "bits")]
    return int(not all(row is not None and row["ok"] for row in proofs))


if __name__ == "__main__":
    sys.exit(main())
