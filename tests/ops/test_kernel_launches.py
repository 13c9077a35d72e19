"""What launchers hand to Triton's compiler is what it takes, and what `compile_check` has compiled: without a GPU.

The interpreter lets unknown options pass and never sees a device, so it cannot tell. Here launchers run up to the
compiler, in a process of their own, on tensors that claim to lie on a GPU and have no memory (torch's fake tensors).
"""

from __future__ import annotations

import json
import subprocess
import sys

from kernel_harness import KERNELS, without_interpreter

PROGRAM = """
import json, sys
from unittest import mock

import torch
from fake_gpu import GPU, compiled_kinds, launched_kind, watch_launches
from torch._library.custom_ops import CustomOpDef
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import tte_kernels._launch
from tte_kernels._inputs import map_tensors
from tte_kernels.registry import OPS

launched, compiled = {}, compiled_kinds()


def note(*, fn, compile, **_):
    pdl = json.loads(compile["specialization_data"])["options"]["launch_pdl"]
    tag = "model" if case.tag == "model" or "attention" in op.name else "ci"  # whose models' shapes are no fakes
    launched.setdefault(launched_kind(fn, compile), [fn.jit_function.__name__, pdl, tag, f"{op.name}/{case.name}"])


def on_gpu(tensor):
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=GPU)


watch_launches(note)
for op in OPS:
    bodies = mock.Mock()
    for body in vars(sys.modules[op.fn.__module__]).values():
        if isinstance(body, CustomOpDef):
            setattr(bodies, body._name, body._init_fn)
    for case in op.cases:
        for dtype in case.dtypes:
            try:
                with FakeTensorMode():  # models' shapes take no memory
                    inputs = case.make_inputs(0, "cpu", dtype)
            except DataDependentOutputException:  # page tables are made by their numbers
                inputs = case.make_inputs(0, "cpu", dtype) if case.tag == "ci" else None
            # Programmatic dependent launch is for the dtype that GPUs run.
            for tte_kernels._launch._pdl in (False, dtype is torch.bfloat16) if inputs else ():
                with FakeTensorMode(allow_non_fake_inputs=True), mock.patch.object(torch.ops, "tte", bodies):
                    op.fn(**map_tensors(inputs, on_gpu))
unknown = [key for key in launched if key not in compiled]
print(json.dumps([list(launched.values()), [[*launched[key], key] for key in unknown]]))
"""


def test_what_is_launched_is_what_the_compiler_takes() -> None:
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    done = subprocess.run(command, env=without_interpreter(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    launched, unknown = json.loads(done.stdout)
    assert {tuple(one[:2]) for one in launched} == {(kernel, pdl) for kernel in KERNELS for pdl in (False, True)}
    # Odd cases are proven in the interpreter.
    missing = [f"{case}: {key}" for _, _, tag, case, key in unknown if tag == "model"]
    assert not missing, "models launch what compile_check does not compile:\n" + "\n".join(missing)
