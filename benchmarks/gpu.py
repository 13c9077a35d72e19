"""One command for a device: proves every kernel on it, then measures them and holds the figures against the aims.

    python -m benchmarks.gpu --budget 480 --out DIR

Stages: `parity` (every case of every op against its reference, in bf16 first), `bits` (rows alone and among others have
equal bits, in bf16), `ceiling` (bandwidth of a copy), `kernels` (time of every model shape in bf16, L2-cold, in a CUDA
graph, as a share of that ceiling, beside torch's own libraries and those that are installed), `decode` (a decode step
of Qwen2-VL-2B's shape at batch 1, 8 and 32, and of 7B's at 1), `embed` (one request of the 2B end to end, against plain
transformers in two passes) and `aims`. What tells most comes first: small cases, then the shapes that an aim is about,
then decode steps, then the rest. What fails its parity is not timed. Each result is appended to DIR/gpu.jsonl as it
comes; when the budget is spent the command ends with status 3, and the same command goes on from there. Progress goes
to stderr, the tables to stdout. Needs a GPU; decode and embed need transformers too. It does not know any op.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import torch

from benchmarks import gpu_aims
from benchmarks.core.command import PlainCommand
from benchmarks.core.machine import machine
from benchmarks.core.options import MODELS
from benchmarks.core.results import Results
from benchmarks.core.work import INCOMPLETE, Item, run_items
from benchmarks.gpu_kernels import bits_items, ceiling_item, kernel_items, parity_items, shown
from tte_kernels import set_pdl
from tte_kernels._case import Op
from tte_kernels.registry import OPS

__all__ = ["main", "plan", "table"]


def plan(ops: Sequence[Op], results: Results, end_to_end: Sequence[Item] = ()) -> list[Item]:
    """Everything there is to do, in the order in which it tells most.

    Args:
        ops: to prove and measure. results: where the kernels' items find the proofs and the ceiling.
        end_to_end: items of the stages that need a model.
    """
    small = {f"{op.name}/{case.name}" for op in ops for case in op.cases if case.tag == "ci"}
    aimed = {key for aim in gpu_aims.AIMS for key in aim.keys}
    parity, bits, kernels = list(parity_items(ops)), list(bits_items(ops)), list(kernel_items(ops, results))
    served = {item.key.removesuffix("/bf16"): item for item in parity if item.key.endswith("/bf16")}
    order = [item for key, item in served.items() if key in small]
    order += [item for item in bits if item.key in small]
    order.append(ceiling_item())
    for item in kernels:
        if item.key in aimed:
            order += [served[item.key], item]
    order += end_to_end
    seen = {(item.stage, item.key) for item in order}
    return order + [item for item in (*parity, *bits, *kernels) if (item.stage, item.key) not in seen]


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
    for key, row in shown(results).items():
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


@click.command(cls=PlainCommand)
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
    end_to_end: list[Item] = []
    if not kernels_only:
        from benchmarks import gpu_embed  # a machine with bare torch measures kernels

        end_to_end += gpu_embed.EndToEnd(models).items()
    items = plan(chosen, results, end_to_end)
    left = run_items(items, results, budget)
    click.echo(table(results))
    if not kernels_only:
        click.echo("\n" + gpu_embed.table(results.stage("decode"), results.stage("embed")))
    click.echo("\n" + gpu_aims.table(gpu_aims.write(results)))
    if left:
        click.echo(f"{left} items left: run the same command again.", err=True)
        sys.exit(INCOMPLETE)
    proofs = [results.get(item.stage, item.key) for item in items if item.stage in ("parity", "bits")]
    sys.exit(int(not all(row is not None and row["ok"] for row in proofs)))


if __name__ == "__main__":
    main()
