"""What runs on a GPU runs as far as that can be known without one: nothing waits, mixes devices or is refused.

See `steps_on_a_fake_gpu`, which runs in a process of its own: Triton's interpreter stands in the compiler's place here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kernel_harness import KERNELS, without_interpreter

from tte_runtime.models.checkpoint import find_folder

SCENARIOS = (
    *("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen2", "qwen3", "llama"),
    *("one by one", "not captured", "in chunks", "preempting", "w8a16", "w4a16", "dependent launches"),
    *("float16", "float32", "prompts by SDPA"),
    *("decoder_layers", "attention_pooler", "latent_attention", "qformer"),
    *(
        f"{shape} {weights} {dtype}"
        for shape in ("qwen2vl-2b", "qwen2vl-7b", "qwen3vl-2b")
        for weights in ("w16", "w8a16", "w4a16")
        for dtype in ("bfloat16", "bfloat16 pdl", "float16", "float32")
    ),
    *(
        f"noticed: {name}"
        for name in (
            *("upload", "upload into", "value", "truth", "fetch", "fetch into", "fetch as"),
            *("index", "list", "filling", "making"),
        )
    ),
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    here = Path(__file__).parent
    environment = without_interpreter()
    environment["PYTHONPATH"] = os.pathsep.join([str(here.parent / "models"), environment["PYTHONPATH"]])
    command = [sys.executable, str(here / "steps_on_a_fake_gpu.py"), str(tmp_path_factory.mktemp("gpu"))]
    done = subprocess.run([*command, str(find_folder("tte-tiny"))], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_waits_for_the_device(found: dict[str, Any], name: str) -> None:
    assert not found["outcomes"][name], found["outcomes"][name]


def test_that_is_all_there_is(found: dict[str, Any]) -> None:
    assert set(found["outcomes"]) == set(SCENARIOS)
    assert set(found["kernels"]) == KERNELS


def test_what_engines_of_real_models_launch_is_compiled(found: dict[str, Any]) -> None:
    """`test_kernel_launches` holds it for the cases of every op, this for what an engine makes of them."""
    missing = [f"{name}: {kind}" for kind, name in found["unknown"].items()]
    assert not missing, "engines launch what compile_check does not compile:\n" + "\n".join(missing)
