"""The compile check compiles, reads what a binary costs, and its gates notice what they are for.

`make kernels` compiles every op, with two versions of Triton. The compiler runs in processes of its own, because these
tests may run in the interpreter.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest
from kernel_harness import without_interpreter

from tte_kernels._binary import KernelCost, _load_widths, _loads_before_wait
from tte_kernels._case import CompileSpec
from tte_kernels.compile_check import Row, failures
from tte_kernels.registry import OPS


def _compile(op: str, targets: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tte_kernels.compile_check", "--targets", targets, "--ops", op]
    return subprocess.run(command, env=without_interpreter(), capture_output=True, text=True)


def test_an_op_compiles_for_every_target_and_passes_the_gates() -> None:
    result = _compile("rope_write_kv", "sm_80,sm_90,sm_100,gfx942")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "rope_write_kv_kernel/qwen2vl_7b-pdl" in result.stdout and " 0 failed" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("op", [op.name for op in OPS])
def test_kernels_pass_the_gates_on_sm_90(op: str) -> None:
    result = _compile(op, "sm_90")
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{op} " in result.stdout and " 0 failed" in result.stdout


def test_every_op_compiles_with_and_without_programmatic_dependent_launch() -> None:
    """In a process without the interpreter, as the tables are those of the compiled kernels."""
    code = (
        "from tte_kernels.registry import OPS, compile_specs_of\n"
        "for op in OPS:\n"
        "    found = {}\n"
        "    for spec in compile_specs_of(op.name):\n"
        "        found.setdefault(spec.name.split('/')[0], set()).add(spec.constexprs['PDL'])\n"
        "    assert all(values == {False, True} for values in found.values()), (op.name, found)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], env=without_interpreter(), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_an_unknown_target_and_the_interpreter_are_refused() -> None:
    assert "must be among sm_80" in _compile("rms_norm", "sm_1").stderr
    command = [sys.executable, "-m", "tte_kernels.compile_check"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    refused = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert refused.returncode != 0 and "TRITON_INTERPRET must be unset" in refused.stderr


def test_load_widths_are_read_from_sass() -> None:
    sass = """
        /*0000*/ LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0010*/ @!P0 LDGSTS.E.BYPASS.LTC128B.128 [R7], desc[UR4][R2.64] ;
        /*0020*/ LDG.E.64.CONSTANT R4, desc[UR4][R2.64] ;
        /*0030*/ LDG.E R4, desc[UR4][R2.64] ;
        /*0040*/ LDG.E.U16 R4, desc[UR4][R2.64] ;
        /*0050*/ LDS.128 R4, [R2] ;
        /*0060*/ UTMALDG.2D [UR8], [UR4] ;
    """
    assert _load_widths(sass) == {128: 3, 64: 1, 32: 1, 16: 1}


def test_loads_above_the_wait_are_counted_and_gated() -> None:
    load, wait = "LDG.E R4, desc[UR4][R2.64] ;\n", "ACQBULK ;\n"
    assert _loads_before_wait(load * 2) is None
    assert _loads_before_wait(load * 2 + wait + load) == 2
    spec = CompileSpec("k", None, {}, {"PDL": True}, num_warps=4, num_stages=1, loads_before_wait=1)
    words = {None: "no wait", 0: "", 1: "", 2: "2 loads above the wait, allowed 1"}
    for above, expected in words.items():
        cost = KernelCost(registers=1, spills=0, shared=0, loads={}, loads_before_wait=above)
        found = failures(Row("op", "sm_90", spec, cost))
        assert (expected in found[0]) if expected else not found


@pytest.mark.parametrize(
    ("cost", "words"),
    [
        (KernelCost(registers=64, spills=0, shared=0, loads={128: 2, 32: 3}), ""),
        (KernelCost(registers=64, spills=1, shared=0, loads={128: 2}), "1 spills"),
        (KernelCost(registers=129, spills=0, shared=0, loads={128: 2}), "budget 128"),
        (KernelCost(registers=64, spills=0, shared=228 * 1024, loads={128: 2}), "shared memory"),
        (KernelCost(registers=64, spills=0, shared=0, loads={64: 2, 128: 1}), "128-bit loads carry 50%"),
    ],
)
def test_gates(cost: KernelCost, words: str) -> None:
    spec = CompileSpec("k", None, {}, {}, num_warps=4, num_stages=1, streamed=True, max_registers=128)
    found = failures(Row("op", "sm_90", spec, cost))
    assert (words in found[0]) if words else not found
    elsewhere = failures(Row("op", "sm_80", spec, cost))
    assert [word for word in elsewhere if "shared" not in word] == [], "only shared memory is gated elsewhere"
    assert failures(Row("op", "gfx942", spec, dataclasses.replace(cost, shared=65537)))[0].endswith("at most 65536")
    assert failures(Row("op", "sm_80", spec, None, "boom")) == ["does not compile: boom"]
