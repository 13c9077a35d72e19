"""What identifies a row of results: device, threads, versions and commit. The date is the row's own.

Works from a clone with nothing but torch installed, as a GPU image may have it. Knows no benchmark.
"""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

__all__ = ["ROOT", "machine"]

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "triton", "transformers", "numpy")
# What is measured and what is drawn or written from it decides no figure.
MADE_HERE = tuple(
    f":!{path}" for path in ("benchmarks/results", "docs/pictures", "docs/benchmarks.md", "docs/measured.md")
)


def machine(device: str, **more: Any) -> dict[str, Any]:
    """This machine for work on `device` ("cpu", "cuda", "cuda:1"); `more` is added as it is."""
    found: dict[str, Any] = {"device": _name(device), "python": platform.python_version()}
    if device.startswith("cuda"):
        found |= {"capability": list(torch.cuda.get_device_capability(device)), "cuda": torch.version.cuda}
    else:
        found["threads"] = torch.get_num_threads()
    return found | {package: _version(package) for package in PACKAGES} | {"commit": _commit()} | more


def _name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    from tte_runtime.evaluation.machine import describe_machine  # needs the whole runtime, which a CPU run has

    return describe_machine(device).device


def _version(package: str) -> str:
    if package == "torch":
        return torch.__version__  # with its build, which the metadata of some wheels lacks
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "-uno", "--", ".", *MADE_HERE)
    return (git("rev-parse", "HEAD") or "unknown") + ("+changes" if changed else "")
