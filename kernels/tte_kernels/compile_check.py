"""Compiles every shipped configuration of every kernel without a GPU, and gates what it costs on sm_90.

    python -m tte_kernels.compile_check --targets sm_80,sm_90,sm_100,gfx942

Prints one line a kernel, configuration and target, and exits with 1 if one does not compile, needs more shared
memory than its target has, or fails a gate on sm_90: no spills, registers within the kernel's budget, for kernels
that stream an operand 128-bit loads for most of the bytes, and with PDL no load above the wait but weights. Runs
in a process of its own: TRITON_INTERPRET replaces the compiler. It does not know any op, and proves nothing
about results or speed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tte_kernels._binary import KernelCost, read_cost
from tte_kernels._case import CompileSpec
from tte_kernels._launch import AMD_STAGES, interpreted
from tte_kernels.errors import KernelBackendError, KernelInputError

__all__ = ["Row", "check", "failures", "main"]

GATED_TARGET = "sm_90"
# Bytes of shared memory that one program may have: A100, H100, B200 (CUDA programming guide, compute capabilities)
# and MI300 (CDNA3 instruction set, LDS).
MAX_SHARED = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024, "gfx942": 64 * 1024}
TARGETS = tuple(MAX_SHARED)


@dataclass(frozen=True)
class Row:
    """One compiled configuration; `cost` is None where it did not compile, and `error` says why."""

    op: str
    target: str
    spec: CompileSpec
    cost: KernelCost | None
    error: str = ""


def _gpu_target(name: str) -> Any:
    from triton.backends.compiler import GPUTarget

    if name not in TARGETS:
        raise KernelInputError(f"compile_check: --targets must be among {', '.join(TARGETS)}, got {name!r}.")
    return GPUTarget("cuda", int(name[3:]), 32) if name.startswith("sm_") else GPUTarget("hip", name, 64)


def _runs_on(spec: CompileSpec, target: str) -> bool:
    """Programmatic dependent launch exists from sm_90 on."""
    return not spec.constexprs.get("PDL") or target in ("sm_90", "sm_100")


def _compile(spec: CompileSpec, target: str) -> Any:
    """The triton.compile result; pointers and `spec.aligned` integers are multiples of 16, as at a launch."""
    import triton
    from triton.compiler import ASTSource

    names = list(spec.fn.arg_names)
    signature = {name: "constexpr" if name in spec.constexprs else spec.signature[name] for name in names}
    attrs = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name, kind in signature.items()
        if kind.startswith("*") or name in spec.aligned
    }
    source = ASTSource(fn=spec.fn, signature=signature, constexprs=dict(spec.constexprs), attrs=attrs)
    options = {"num_warps": spec.num_warps, "num_stages": spec.num_stages, "enable_fp_fusion": spec.fp_fusion}
    if not target.startswith("sm_"):
        options["num_stages"] = min(spec.num_stages, AMD_STAGES)
    elif spec.maxnreg is not None:
        options["maxnreg"] = spec.maxnreg
    return triton.compile(source, target=_gpu_target(target), options=options)


def check(ops: Iterable[str], targets: Iterable[str]) -> Iterator[Row]:
    """Compiles every configuration of `ops` for every target, one Row each, as they come."""
    from tte_kernels.registry import compile_specs_of

    targets = tuple(targets)
    for op in ops:
        for spec in compile_specs_of(op):
            for target in targets:
                if not _runs_on(spec, target):
                    continue
                try:
                    yield Row(op, target, spec, read_cost(_compile(spec, target), disassemble=target == GATED_TARGET))
                except KernelInputError:
                    raise
                except Exception as error:
                    # The compiler raises many kinds; each is a failed row, and none stops the table.
                    yield Row(op, target, spec, None, f"{type(error).__name__}: {error}".splitlines()[0])


def failures(row: Row) -> list[str]:
    """The gates that a row fails: in words, empty if none. Shared memory is gated everywhere, the rest on sm_90."""
    if row.cost is None:
        return [f"does not compile: {row.error}"]
    cost, spec, failed = row.cost, row.spec, []
    if cost.shared > MAX_SHARED[row.target]:
        failed.append(f"{cost.shared} bytes of shared memory, at most {MAX_SHARED[row.target]}")
    if row.target != GATED_TARGET:
        return failed
    if cost.spills:
        failed.append(f"{cost.spills} spills, allowed none")
    if cost.registers > spec.max_registers:
        failed.append(f"{cost.registers} registers, budget {spec.max_registers}")
    if spec.constexprs.get("PDL"):
        # triton#11905: the pipeliner may hoist loads of what the previous kernel writes above the wait.
        if cost.loads_before_wait is None:
            failed.append("no wait for the previous kernel")
        elif cost.loads_before_wait > spec.loads_before_wait:
            failed.append(f"{cost.loads_before_wait} loads above the wait, allowed {spec.loads_before_wait}")
    if spec.streamed and cost.wide_share <= 0.5:
        failed.append(f"128-bit loads carry {cost.wide_share:.0%} of the bytes, must be over half: {cost.loads}")
    return failed


def _line(row: Row) -> str:
    verdict = "; ".join(failures(row)) or "ok"
    name = f"{row.op:<18} {row.spec.name:<52} {row.target:<7}"
    if row.cost is None:
        return f"{name} {'-':>5} {'-':>7} {'-':>8} {'-':<24} {verdict}"
    loads = " ".join(f"{width}x{count}" for width, count in sorted(row.cost.loads.items())) or "-"
    return f"{name} {row.cost.registers:>5} {row.cost.spills:>7} {row.cost.shared:>8} {loads:<24} {verdict}"


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tte_kernels.compile_check", description=__doc__.splitlines()[0])
    parser.add_argument("--targets", default=GATED_TARGET, help=f"comma-separated, of {', '.join(TARGETS)}")
    parser.add_argument("--ops", default="", help="comma-separated; default: all")
    arguments = parser.parse_args(argv)
    if interpreted():
        raise KernelBackendError("compile_check: TRITON_INTERPRET must be unset, it replaces the compiler.")
    import triton

    from tte_kernels.registry import OPS, get_op

    targets = arguments.targets.split(",")
    for target in targets:
        _gpu_target(target)  # a misspelt target is refused before the first minute of compiling
    ops = [get_op(name).name for name in arguments.ops.split(",")] if arguments.ops else [op.name for op in OPS]
    print(f"triton {triton.__version__}; gates on {GATED_TARGET}; there loads are bits x instructions")
    name = f"{'op':<18} {'kernel/configuration':<52} {'target':<7}"
    print(f"{name} {'regs':>5} {'spills':>7} {'shared':>8} {'loads':<24} gate")
    rows = []
    for row in check(ops, targets):
        print(_line(row), flush=True)
        rows.append(row)
    for target in targets:
        print(_total(target, [row.cost for row in rows if row.target == target and row.cost]))
    failed = sum(bool(failures(row)) for row in rows)
    print(f"{len(rows)} compiled configurations, {failed} failed; triton {triton.__version__}")
    return 1 if failed else 0


def _total(target: str, costs: list[KernelCost]) -> str:
    """The span of what one target's configurations use."""
    if not costs:
        return f"{target:<7} nothing compiled"
    registers, spilling = [cost.registers for cost in costs], sum(cost.spills > 0 for cost in costs)
    span = f"registers {min(registers)}..{max(registers)}, {spilling} spill"
    return f"{target:<7} {len(costs)} configurations, {span}, shared memory up to {max(cost.shared for cost in costs)}"


if __name__ == "__main__":
    sys.exit(main())
