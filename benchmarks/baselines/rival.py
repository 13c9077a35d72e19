"""Our side of the conversation with a rival: its process, one line of JSON each way. Knows no rival and no model."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.core.machine import ROOT

__all__ = ["Rival", "RivalError"]

PACKAGE = "benchmarks.baselines"


class RivalError(Exception):
    """A rival cannot be started, or failed on a question."""


class Rival:
    """A rival in its own process.

    Args:
        name: of its file in benchmarks/baselines. python: of its environment. model: as it reads it.

    Raises:
        RivalError: it did not come up; its own words stand on stderr.
    """

    def __init__(self, name: str, python: str, model: str) -> None:
        self.name = name
        if not Path(python).is_file():
            raise RivalError(f"{python} is no Python: make the environment that benchmarks/baselines/{name}.py names")
        command = [python, "-m", f"{PACKAGE}.{name}", model]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.versions = self._read()["versions"]

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer to a batch."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RivalError(f"{self.name} ended with status {self._process.wait()}; see what it wrote above")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RivalError(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
