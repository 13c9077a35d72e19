"""All ops of the library: `OPS`, found by looking for folders that hold a `cases.py`.

A new op is an `OP` in its own cases.py; nothing is listed here. Importing this file imports every op's cases,
but no Triton. It does not know what an op does.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from tte_kernels._case import CompileSpec, Op

__all__ = ["OPS", "compile_specs_of", "get_op"]

_ROOT = Path(__file__).parent


def _load() -> tuple[Op, ...]:
    names = sorted(path.parent.name for path in _ROOT.glob("*/cases.py"))
    return tuple(importlib.import_module(f"tte_kernels.{name}.cases").OP for name in names)


OPS: tuple[Op, ...] = _load()
"""Every op, sorted by name."""


def get_op(name: str) -> Op:
    """The op of that name; raises KeyError that lists the known ones."""
    for op in OPS:
        if op.name == name:
            return op
    raise KeyError(f"no op {name!r}; known: {', '.join(op.name for op in OPS)}")


def compile_specs_of(name: str) -> list[CompileSpec]:
    """All shipped configurations of one op. Imports Triton."""
    specs: list[CompileSpec] = importlib.import_module(f"tte_kernels.{name}.kernel").compile_specs()
    return specs
