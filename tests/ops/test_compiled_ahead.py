"""A request never waits for the compiler: all that it calls was compiled when the model was loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from PIL import Image
from tte_runtime import Embedder
from tte_runtime.ops.rows import blocks, compiled, finishing, scoring, walking, whole_tower

CALLS = [
    blocks.run_block, compiled.run_layers, compiled.run_product, finishing.finish, scoring.score_tokens,
    scoring.likeliest, walking.run_steps, whole_tower.run_tower,
]

def known():
    return {call.__name__: list(call.signatures) for call in CALLS}

embedder = Embedder.from_pretrained("tte-tiny", dtype=sys.argv[1], weights=sys.argv[2])
before = known()
pictures = [Image.new("RGB", (side, side), color) for side, color in ((56, "red"), (112, "blue"))]
items = [{"image": one, "text": "what is at b3?"} for one in pictures] + ["a word", "some more words than one"]
embedder.embed(items, role="query")
embedder.embed(items, role="document", think=False)
assert known() == before, (before, known())
assert len(before["run_layers"]) == 1, before["run_layers"]
"""


@pytest.mark.parametrize(("dtype", "weights"), [("float32", "w16"), ("bfloat16", "w16"), ("float32", "w8a8")])
def test_nothing_is_compiled_within_a_request(dtype: str, weights: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, dtype, weights], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
