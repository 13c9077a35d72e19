"""How `tte embed` writes results: JSONL as they come, or one .npy at the end. Knows files; knows no model."""

from __future__ import annotations

import io
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tte_runtime.types import Result


class Sink:
    """Takes outcomes in order. A context manager: leaving it without an error finishes the file.

    Args:
        out: the file, or `None` for stdout.
        dim: E, the length of a vector.
    """

    def __init__(self, out: Path | None, dim: int) -> None:
        self.out = out
        self.dim = dim

    def write(self, index: int, identity: Any, outcome: Result | Exception) -> None:
        """Take the outcome of request `index`, whose own name is `identity` (`None` for none)."""
        raise NotImplementedError

    def finish(self) -> None:
        """All outcomes are there."""

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()


class JsonlSink(Sink):
    """A JSON object a request: index, id, vector, trace, finish_reason, counts ...; or index, id and error."""

    def __init__(self, out: Path | None, dim: int) -> None:
        super().__init__(out, dim)
        self._file: IO[str] = sys.stdout if out is None else out.open("w", encoding="utf-8")

    def write(self, index: int, identity: Any, outcome: Result | Exception) -> None:
        """Write one line, at once."""
        row: dict[str, Any] = {"index": index} | ({} if identity is None else {"id": identity})
        self._file.write(json.dumps(row | row_of(outcome), ensure_ascii=False) + "\n")
        self._file.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self.out is not None:
            self._file.close()


class NpySink(Sink):
    """float32 [n, E], in order; the row of a request that failed is NaN."""

    def __init__(self, out: Path | None, dim: int) -> None:
        super().__init__(out, dim)
        self._vectors: list[NDArray[np.float32]] = []

    def write(self, index: int, identity: Any, outcome: Result | Exception) -> None:
        """Keep the vector until the end: the header of a .npy needs their number."""
        lost = np.full(self.dim, np.nan, np.float32)
        self._vectors.append(lost if isinstance(outcome, Exception) else outcome.vector)

    def finish(self) -> None:
        """Write the file whole, or not at all."""
        buffer = io.BytesIO()  # a pipe cannot seek, which np.save wants to
        np.save(buffer, np.stack(self._vectors) if self._vectors else np.empty((0, self.dim), np.float32))
        if self.out is None:
            sys.stdout.buffer.write(buffer.getvalue())
            return
        part = self.out.with_name(self.out.name + ".part")
        part.write_bytes(buffer.getvalue())
        os.replace(part, self.out)


SINKS: dict[str, type[Sink]] = {"jsonl": JsonlSink, "npy": NpySink}


def row_of(outcome: Result | Exception) -> dict[str, Any]:
    """An outcome as JSON can hold it."""
    if isinstance(outcome, Exception):
        return {"error": f"{type(outcome).__name__}: {outcome}"}
    return {
        "vector": outcome.vector.tolist(),
        "trace": outcome.trace,
        "trace_from": outcome.trace_from,
        "finish_reason": outcome.finish_reason,
        "forced_by": outcome.forced_by,
        "counts": asdict(outcome.counts),
        "fingerprint": outcome.fingerprint,
    }
