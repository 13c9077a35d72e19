"""Reads what a compiled kernel costs out of its binary: registers, spills, shared memory and widths of loads.

NVIDIA: `cuobjdump --dump-resource-usage` and `nvdisasm`, both shipped inside Triton. AMD: the metadata of the
assembly text. Knows nothing of ops or gates.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["KernelCost", "read_cost"]


@dataclass(frozen=True)
class KernelCost:
    """What one compiled kernel uses.

    Attributes:
        registers: a thread (NVIDIA) or vector registers a lane (AMD).
        spills: instructions that store to local memory (NVIDIA, disassembled), registers' worth of stack (NVIDIA
            otherwise), or spilled vector registers (AMD).
        shared: bytes of shared memory a program.
        loads: width in bits of global loads -> how many instructions have it; bulk (TMA) copies count as 128.
            Empty where nothing was disassembled, and on AMD.
        loads_before_wait: global loads that stand above the first wait of programmatic dependent launch; None
            without such a wait.
    """

    registers: int
    spills: int
    shared: int
    loads: dict[int, int]
    loads_before_wait: int | None = None

    @property
    def wide_share(self) -> float:
        """Share of the statically loaded bytes that 128-bit loads carry; 0 without loads."""
        total = sum(width * count for width, count in self.loads.items())
        return self.loads.get(128, 0) * 128 / total if total else 0.0


_LOAD = re.compile(r"\b(LDG|LDGSTS|LD)\.((?:[A-Z0-9_]+\.?)+)")
_BULK = re.compile(r"\b(UTMALDG|UBLKCP)\b")
_WIDTHS = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128, "256": 256}


def _load_widths(sass: str) -> dict[int, int]:
    """Width in bits -> number of global load instructions, of SASS text."""
    widths: Counter[int] = Counter()
    for line in sass.splitlines():
        if _BULK.search(line):
            widths[128] += 1
        elif match := _LOAD.search(line):
            # "LDGSTS.E.BYPASS.LTC128B.128": only whole tokens are widths, and none means 32.
            tokens = match[2].rstrip(".").split(".")
            widths[next((_WIDTHS[token] for token in tokens if token in _WIDTHS), 32)] += 1
    return dict(widths)


def _loads_before_wait(sass: str) -> int | None:
    """Loads above the first griddepcontrol.wait (ACQBULK) of SASS text; None without one."""
    before, wait, _ = sass.partition("ACQBULK")
    return sum(_load_widths(before).values()) if wait else None


def _tool(name: str) -> str:
    """Path of a CUDA tool shipped with Triton."""
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _read_nvidia(compiled: Any, disassemble: bool) -> KernelCost:
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage = _run(_tool("cuobjdump"), "--dump-resource-usage", str(cubin))
        sass = _run(_tool("nvdisasm"), "-c", "-ndf", str(cubin)) if disassemble else ""
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found is not None, usage
    return KernelCost(
        registers=int(found[1]),
        spills=len(re.findall(r"\bSTL\b", sass)) if disassemble else int(found[2]) // 4,
        shared=int(compiled.metadata.shared),
        loads=_load_widths(sass),
        loads_before_wait=_loads_before_wait(sass),
    )


def _read_amd(compiled: Any) -> KernelCost:
    text = compiled.asm["amdgcn"]

    def number(key: str) -> int:
        match = re.search(rf"\.{key}:\s*(\d+)", text)
        assert match is not None, key
        return int(match[1])

    return KernelCost(number("vgpr_count"), number("vgpr_spill_count"), int(compiled.metadata.shared), {})


def read_cost(compiled: Any, disassemble: bool = True) -> KernelCost:
    """The cost of a `triton.compile` result, for either vendor. Disassembling takes as long as compiling."""
    return _read_nvidia(compiled, disassemble) if "cubin" in compiled.asm else _read_amd(compiled)
