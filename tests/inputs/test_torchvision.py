"""Pictures are read where torchvision is installed but cannot be imported, as beside a CPU build of torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = """
from PIL import Image
from tte_runtime import Embedder
with Embedder.from_pretrained("tte-tiny") as embedder:
    print(embedder._pipeline.renderer.pixel_backend)
    print(embedder.embed(Image.new("RGB", (60, 40)), role="document", think=False).vector.shape)
"""


def test_a_broken_torchvision_counts_as_absent(tmp_path: Path) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    path = os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["Qwen2VLImageProcessorPil", "(192,)"]
    assert "cannot be imported" in done.stderr
