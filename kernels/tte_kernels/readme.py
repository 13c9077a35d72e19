"""Renders kernels/README.md from the cases: `python -m tte_kernels.readme [--write]`.

Does not know any op; measured speed is not in here, it lives with the benchmarks.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from tte_kernels._case import Op
from tte_kernels.registry import OPS

__all__ = ["main", "render"]

_INTRO = """\
# tte_kernels

Triton kernels for think-then-embed inference. They import torch and, at the first launch, Triton; nothing
else of this repository. This file is generated: `PYTHONPATH=kernels python -m tte_kernels.readme --write`.

Every op is a folder of four files: `__init__.py` (the contract: formula, shapes, what is raised),
`reference.py` (the specification in torch), `kernel.py` (Triton and its launcher) and `cases.py` (shapes,
tolerances, bytes and FLOPs). There is no `__init__.py` in this folder, ever: a package called `kernels` would
hide the one that transformers imports.

| op | computes | used by | tolerance fp32 | fp16 | bf16 | small cases | model shapes |
|---|---|---|---|---|---|---:|---:|
"""

_OUTRO = """
A tolerance is `atol / rtol` against the reference in fp32; for `sample` it is how far the drawn token's score
may lie below the best. Each is justified beside its number in `cases.py`.

## Proof

- **Results.** Parity with the reference on every small case and every model shape as small as these, in fp32 and fp16
  under the interpreter, with outputs poisoned with NaN first.
- **Bounds.** Every tensor lies between guard regions: nothing outside is written or changes a result.
- **Equal bits.** A row alone, among others and in another place has the same bits.
- **Graphs.** torch.compile and torch.export pass over the operators; `opcheck` holds their fakes.
- **Code.** `python -m tte_kernels.compile_check` compiles every shipped configuration for sm_80, sm_90,
  sm_100 and gfx942 without a GPU, in CI with Triton 3.6 and the newest (`make kernels`); a test holds that
  nothing else is launched. Everywhere: shared memory that the target has. On sm_90: no spills, registers
  within budget, 128-bit loads where an operand streams, nothing but weights loaded above the wait of
  programmatic dependent launch.
- **Cost.** The bytes and FLOPs that a case declares are counted again from its tensors, for every case in every dtype.

Most model shapes run on hardware only. Launch configurations are literal tables, compiled and gated; where a
comment says "unmeasured on hardware", no speed is claimed.
"""


def _tolerance(op: Op, dtype: torch.dtype) -> str:
    limit = op.tolerance.get(dtype)
    return "-" if limit is None else f"{limit.atol:g} / {limit.rtol:g}"


def _row(op: Op) -> str:
    tolerances = " | ".join(_tolerance(op, dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16))
    counts = " | ".join(str(sum(case.tag == tag for case in op.cases)) for tag in ("ci", "model"))
    link = f"[`{op.name}`](tte_kernels/{op.name}/__init__.py)"
    formula = op.formula.replace("|", "\\|")
    return f"| {link} | `{formula}` | {op.used_by} | {tolerances} | {counts} |\n"


def render() -> str:
    """The whole text of kernels/README.md."""
    return _INTRO + "".join(_row(op) for op in OPS) + _OUTRO


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tte_kernels.readme", description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write kernels/README.md instead of printing it")
    if parser.parse_args(argv).write:
        Path(__file__).parent.parent.joinpath("README.md").write_text(render())
    else:
        print(render(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
