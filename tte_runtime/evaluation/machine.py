"""What a figure was measured on: device, threads, versions, date. No figure leaves this project without it.

Knows the platform and installed versions; touches no device beyond asking for its name.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from tte_runtime import __version__

CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Machine:
    """Where and with what something ran.

    Attributes:
        device: name of the GPU or the processor.
        threads: torch's threads within an operation.
        versions: package -> version.
        date: of the measurement, UTC, to the minute.
    """

    device: str
    threads: int
    versions: dict[str, str]
    date: str

    @property
    def threads_in_words(self) -> str:
        """ "1 thread", "2 threads"."""
        return f"{self.threads} thread{'' if self.threads == 1 else 's'}"

    def __str__(self) -> str:
        packages = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return f"{self.device}, {self.threads_in_words}; {packages}; {self.date}"


def describe_machine(device: str = "cpu") -> Machine:
    """This machine, for work on `device` ("cpu", "cuda", "cuda:1", ...)."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor()
    versions = {"tte-runtime": __version__, "python": platform.python_version()}
    versions |= {package: version(package) for package in ("torch", "transformers", "numpy")}
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Machine(name, torch.get_num_threads(), versions, date)


def _processor() -> str:
    """The processor's own name where Linux gives it, else the architecture."""
    if CPUINFO.is_file():
        for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    return platform.processor() or platform.machine()
