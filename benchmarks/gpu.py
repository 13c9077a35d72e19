"""One command for a device: proves every kernel on it, then measures them.

    python -m benchmarks.gpu --budget 480 --out DIR

Stages, in order: `parity` (every case of every op against its reference, in bf16 first), `bits` (rows alone and
among others have equal bits, in bf16), `ceiling` (bandwidth of a copy), `kernels` (time of every model shape in
bf16, L2-cold, in a CUDA graph, as a share of that ceiling, beside torch's own libraries), `decode` (a decode step of
Qwen2-VL-2B's shape at batch 1, 8 and 32) and `embed` (one request of it end to end, against plain transformers in two
passes). What fails its parity is not timed. Each result is appended to DIR/gpu.jsonl as it comes; when the budget is
spent the command ends with status 3, and the same command goes on from there. Progress goes to stderr, the table to
stdout. Needs a GPU; the last two stages need transformers too. It does not know any op: it reads the registry.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.core import graph_timing
from benchmarks.core.machine import machine
from benchmarks.core.options import MODELS
from benchmarks.core.results import Results
from benchmarks.core.work import INCOMPLETE, Item, run_items
from benchmarks.op_peers import peers_of
from tte_kernels import set_pdl
from tte_kernels._case import Case, Op
from tte_kernels._compare import invariance_error, parity_error
from tte_kernels.registry import OPS

__all__ = ["main", "table"]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


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
    ceiling = results.get("ceiling", "copy")
    assert ceiling is not None, "the ceiling is measured before the kernels"
    if not ceiling["ok"]:
        return {"ok": False, "error": f"not timed, no ceiling to hold it against: {ceiling['error']}"}
    dtype = torch.bfloat16
    first = case.make_inputs(0, "cuda", dtype)
    size, l2 = graph_timing.nbytes(first), torch.cuda.get_device_properties(0).L2_cache_size
    count = graph_timing.copies_for(size, l2, torch.cuda.mem_get_info()[0])
    copies = [first, *(case.make_inputs(seed, "cuda", dtype) for seed in range(1, count))]
    timing = graph_timing.time_calls([partial(op.fn, **inputs) for inputs in copies])
    moved = case.bytes_of(dtype)
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
    rotated = [peers_of(op.name, inputs, case) for inputs in copies]
    for name in rotated[0]:
        try:
            row["peers"][name] = {"us_p50": graph_timing.time_calls([peers[name] for peers in rotated]).p50}
        except (RuntimeError, TypeError) as error:  # the library has no kernel for this shape
            row["peers"][name] = {"error": str(error).splitlines()[0]}
    return row


def kernel_items(ops: Sequence[Op], results: Results) -> Iterator[Item]:
    """The copy ceiling, then every model shape."""
    yield Item("ceiling", "copy", lambda: {"ok": True, **graph_timing.copy_ceiling()})
    for op in ops:
        for case in op.cases:
            if case.tag == "model" and torch.bfloat16 in case.dtypes:
                yield Item("kernels", f"{op.name}/{case.name}", partial(_measure, op, case, results))


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
    if not ceiling["ok"]:
        return "\n".join([*lines, f"copy ceiling: not measured, {ceiling['error']}"])
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


def _chosen(names: str) -> list[Op]:
    known = {op.name: op for op in OPS}
    unknown = sorted(set(names.split(",")) - set(known)) if names else []
    if unknown:
        raise click.BadParameter(f"--ops must be among {', '.join(known)}, got {', '.join(unknown)}.")
    return [known[name] for name in names.split(",")] if names else list(OPS)


@click.command()
@click.option("--budget", default=480.0, show_default=True, help="Seconds after which no new work begins.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of gpu.jsonl; the same resumes.")
@click.option("--ops", default="", help="Comma-separated names; default: all.")
@click.option("--models", type=click.Path(path_type=Path), default=MODELS, help="Folder of random checkpoints.")
@click.option("--kernels-only", is_flag=True, help="Leave the stages out that need transformers.")
@click.option("--pdl", is_flag=True, help="Programmatic dependent launch (compute capability 9.0).")
def main(budget: float, out: Path, ops: str, models: Path, kernels_only: bool, pdl: bool) -> None:
    """Prove every kernel on the GPU, then measure them. Exit status: 0 done, 1 a proof failed, 2 refused, 3 go on."""
    chosen = _chosen(ops)
    if not torch.cuda.is_available():
        raise click.UsageError("benchmarks.gpu needs a GPU that torch can see; there is none here.")
    if pdl:
        set_pdl(True)
    results = Results(out / "gpu.jsonl", machine("cuda", pdl=pdl))
    items = [*parity_items(chosen), *bits_items(chosen), *kernel_items(chosen, results)]
    if not kernels_only:
        from benchmarks import gpu_embed  # a machine with bare torch measures kernels

        items += gpu_embed.EndToEnd(models).items()
    left = run_items(items, results, budget)
    click.echo(table(results))
    if not kernels_only:
        click.echo("\n" + gpu_embed.table(results.stage("decode"), results.stage("embed")))
    if left:
        click.echo(f"{left} items left: run the same command again.", err=True)
        sys.exit(INCOMPLETE)
    proofs = [results.get(item.stage, item.key) for item in items if item.stage in ("parity", "bits")]
    sys.exit(int(not all(row is not None and row["ok"] for row in proofs)))


if __name__ == "__main__":
    main()
