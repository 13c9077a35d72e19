"""Times calls on a GPU inside a CUDA graph, with inputs that have left the L2 cache.

Every call of the graph works on the next of several copies of its inputs, together at least twice the L2
cache where memory allows, because a decode step finds its weights cold too. Does not know ops; needs a GPU.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from tte_kernels._inputs import map_tensors

__all__ = ["MIN_COPIES", "Captured", "Timing", "copies_for", "copy_ceiling", "nbytes", "time_calls"]

MIN_COPIES, MAX_COPIES = 8, 256
MIN_CALLS = 200  # in a graph, so that its own start is lost among them
GRAPH_MS = 100.0  # or fewer, where they last so long; far above what one launch from Python takes, see Captured
REPLAYS = 20


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call: percentiles over replays of the graph, each the mean of the graph's calls."""

    p20: float
    p50: float
    p80: float
    calls: int


def nbytes(inputs: Any) -> int:
    """Bytes of all tensors in a nest of arguments."""
    total = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        total += tensor.nbytes
        return tensor

    map_tensors(inputs, count)
    return total


def copies_for(size: int, l2: int, free: int) -> int:
    """How many copies of `size` bytes to rotate: 8 or more, twice the L2 cache, at most half of `free`."""
    wanted = min(max(MIN_COPIES, math.ceil(2 * l2 / max(size, 1))), MAX_COPIES)
    return max(1, min(wanted, free // 2 // max(size, 1)))


def rounds_for(copies: int, call_ms: float) -> int:
    """How often to go over the copies: to 200 calls, or until these last 100 ms, and at least once."""
    return math.ceil(min(MIN_CALLS, GRAPH_MS / call_ms) / copies)


class Captured:
    """All calls, in order and repeated to 200 of them or 100 ms, in one CUDA graph.

    The calls must launch on the current stream and never wait for the device.

    Attributes:
        count: calls in the graph.
    """

    def __init__(self, calls: Sequence[Callable[[], Any]]) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # compiles, and lets libraries allocate workspaces, before the capture
            for call in calls[:3]:
                call()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            calls[0]()  # a short one is timed by its launch, tens of microseconds, and gets its 200
            end.record()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        calls = list(calls) * rounds_for(len(calls), start.elapsed_time(end))
        self.count = len(calls)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            for call in calls:
                call()

    def run(self) -> None:
        """Replay and wait."""
        self.graph.replay()
        torch.cuda.synchronize()


def time_calls(calls: Sequence[Callable[[], Any]]) -> Timing:
    """Captures the calls and replays their graph; see `Captured`."""
    captured = Captured(calls)
    graph = captured.graph
    for _ in range(3):
        graph.replay()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(REPLAYS)]
    for start, end in events:
        start.record()
        graph.replay()
        end.record()
    torch.cuda.synchronize()
    each = sorted(start.elapsed_time(end) * 1e3 / captured.count for start, end in events)
    quantiles = statistics.quantiles(each, n=5, method="inclusive")
    return Timing(quantiles[0], statistics.median(each), quantiles[3], captured.count)


def copy_ceiling(size: int = 1 << 30) -> dict[str, float]:
    """Bandwidth of a device-to-device copy of `size` bytes, read and write counted, in GB/s."""
    pairs = [
        (
            torch.empty(size, dtype=torch.uint8, device="cuda"),
            torch.empty(size, dtype=torch.uint8, device="cuda"),
        )
    ]
    pairs.append((pairs[0][1], pairs[0][0]))
    timing = time_calls([partial(target.copy_, source) for source, target in pairs])
    return {"us_p50": timing.p50, "gb_per_s": 2 * size / timing.p50 / 1e3}
