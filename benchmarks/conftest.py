"""`pytest benchmarks --benchmark-only`: options, and what all ops are held against, measured once a session."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from benchmarks.core.ceiling import flop_rate, read_bandwidth
from benchmarks.core.graph_timing import copy_ceiling
from benchmarks.core.machine import ROOT, machine
from benchmarks.core.results import Results


@dataclass(frozen=True)
class Ceiling:
    """Measured in this session: GB/s of memory, TFLOP/s of a large product."""

    gb_per_s: float
    tflop_per_s: float


def pytest_addoption(parser: pytest.Parser) -> None:
    """--op-shapes and --rows."""
    group = parser.getgroup("ops")
    group.addoption("--op-shapes", choices=("quick", "all"), default="quick", help="tte-tiny's, or every model's")
    group.addoption(
        "--rows", type=Path, default=ROOT / "benchmarks" / "results" / "ops.jsonl", help="file the figures go to"
    )


@pytest.fixture(scope="session")
def device() -> str:
    """Where ops run."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="session")
def dtype(device: str) -> torch.dtype:
    """What is served there."""
    return torch.bfloat16 if device == "cuda" else torch.float32


@pytest.fixture(scope="session")
def ceiling(device: str, dtype: torch.dtype) -> Iterator[Ceiling]:
    """What the device can do."""
    bandwidth = copy_ceiling()["gb_per_s"] if device == "cuda" else read_bandwidth(device)
    yield Ceiling(bandwidth, flop_rate(device, dtype))


@pytest.fixture(scope="session")
def last_cache(device: str) -> int:
    """Bytes of the cache that memory stands behind; 32 MiB where the system does not say."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).L2_cache_size)
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size.removesuffix("K")) * 1024 for size in sizes if size.endswith("K")), default=32 << 20)


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest, device: str) -> Results:
    """Where the figures go."""
    return Results(request.config.getoption("--rows"), machine(device))
