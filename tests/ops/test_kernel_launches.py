"""What launchers hand to Triton's compiler is what it takes: arguments, options and grids, without a GPU.

The interpreter lets unknown options pass and never sees a device, so it cannot tell. Here launchers run up to the
compiler, in a process of their own, on tensors that claim to lie on a GPU and have no memory (torch's fake tensors).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

PROGRAM = """
import json, sys
from unittest import mock

import torch
import triton
from torch._library.custom_ops import CustomOpDef
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

import tte_kernels._launch
from tte_kernels._inputs import map_tensors
from tte_kernels.registry import OPS

found = []


class Hopper:
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)


def hook(*, fn, compile, **_):
    found.append([fn.name.rpartition(".")[2], json.loads(compile["specialization_data"])["options"]["launch_pdl"]])
    return True  # found elsewhere: there is nothing to compile, and nothing to launch


def on_gpu(tensor):
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda:0")


driver.set_active(Hopper())
triton.knobs.runtime.jit_cache_hook = hook
for op in OPS:
    bodies = mock.Mock()
    for body in vars(sys.modules[op.fn.__module__]).values():
        if isinstance(body, CustomOpDef):
            setattr(bodies, body._name, body._init_fn)
    for case in op.cases:
        if case.tag == "ci" and torch.bfloat16 in case.dtypes:
            inputs = case.make_inputs(0, "cpu", torch.bfloat16)
            for tte_kernels._launch._pdl in (False, True):
                with FakeTensorMode(), mock.patch.object(torch.ops, "tte", bodies):
                    op.fn(**map_tensors(inputs, on_gpu))
print(json.dumps(found))
"""

KERNELS = {
    "decode_attention_kernel",
    "decode_linear_4bit_kernel",
    "decode_linear_kernel",
    "extend_attention_kernel",
    "linear_kernel",
    "merge_splits_kernel",
    "pool_normalize_kernel",
    "rms_norm_kernel",
    "rope_write_kv_kernel",
    "sample_kernel",
    "sample_reduce_kernel",
}


def test_what_is_launched_is_what_the_compiler_takes() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    launched = {(kernel, pdl) for kernel, pdl in json.loads(done.stdout)}
    assert launched == {(kernel, pdl) for kernel in KERNELS for pdl in (False, True)}
