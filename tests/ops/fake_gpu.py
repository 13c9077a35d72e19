"""A GPU that is none: its tensors have shapes and no values (torch's fake tensors), launches end at Triton's compiler.

To be used in a process of its own, without Triton's interpreter. Whoever reads a value of such a tensor, mixes devices
or hands Triton what it does not take is stopped, so what runs here would run on a GPU as well, as far as that can be
known without one, and waits for it nowhere but in `HostCopy`. Results are zeros.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from tte_kernels.registry import OPS, compile_specs_of

GPU = torch.device("cuda:0")
COUNTS = ("NUM_HEADS", "NUM_KV_HEADS", "GROUP")  # of a model: odd ones are cases, not configurations


class Hopper:
    """What launchers ask of Triton's driver."""

    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)


def watch_launches(seen: Callable[..., None]) -> None:
    """Have `seen(fn=, compile=, ...)` called for each kernel that would be compiled, which it is not, nor launched."""

    def hook(**launch: Any) -> bool:
        seen(**launch)
        return True  # found elsewhere

    driver.set_active(Hopper())
    triton.knobs.runtime.jit_cache_hook = hook


def kind_of(fn: Any, types: Any, values: Any, num_warps: int, num_stages: int) -> str:
    """What decides a kernel's code, sizes and alignment apart: pointers' types, what is absent, constexprs, options."""
    named = {param.name for param in fn.params if param.is_constexpr}.difference(COUNTS)
    chosen = {name: values[name] for name in sorted(values) if name in named or values[name] is None}
    pointers = {name: types[name] for name in sorted(types) if types[name].startswith("*")}
    return json.dumps([fn.__name__, pointers, chosen, num_warps, num_stages])


def launched_kind(fn: Any, compile: Any, **_: Any) -> str:
    """The kind of a launch, of what `watch_launches` hears."""
    jit = fn.jit_function
    values = {jit.arg_names[index]: value for (index,), value in compile["constants"].items()}
    return kind_of(jit, compile["signature"], values, compile["num_warps"], compile["num_stages"])


def compiled_kinds() -> set[str]:
    """The kinds that `compile_check` compiles."""
    specs = [spec for op in OPS for spec in compile_specs_of(op.name)]
    return {kind_of(spec.fn, spec.signature, spec.constexprs, spec.num_warps, spec.num_stages) for spec in specs}


class Waits(AssertionError):
    """The host would wait for everything that is queued on the device."""


class FakeGpu(TorchFunctionMode):
    """What torch makes on a GPU is made here, and nothing else changes.

    Attributes:
        stepping: copies have to be such that nobody waits for them.
    """

    def __init__(self) -> None:
        super().__init__()
        _lend_a_guard()
        self.stepping = False
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.stepping:
            _check_copies(func, args, kwargs)
        if not any(map(_is_gpu, (*args, *kwargs.values()))):
            return func(*args, **kwargs)
        kwargs = {name: GPU if _is_gpu(value) else value for name, value in kwargs.items() if name != "pin_memory"}
        with self._fake:
            if func is torch.tensor:
                del kwargs["device"]
                return self._fake.from_tensor(func(*args, **kwargs)).to(GPU)
            return func(*[GPU if _is_gpu(value) else self._faked(value) for value in args], **kwargs)

    def _faked(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor):
            return self._fake.from_tensor(value)
        return value


def _check_copies(func: Any, args: Any, kwargs: Any) -> None:
    """Raise where a copy between host and device would make the host wait."""
    name = getattr(func, "__name__", "")
    named_gpu = any(map(_is_gpu, (*args, *kwargs.values())))
    if name in ("__getitem__", "__setitem__") and _on_gpu(args[0]):
        parts = args[1] if isinstance(args[1], tuple) else (args[1],)
        if any(isinstance(part, list) or _on_host(part) for part in (*parts, *args[2:])):
            raise Waits("a tensor on the device is indexed or filled by numbers of the host")
    if name in ("tensor", "as_tensor", "new_tensor") and (named_gpu or any(map(_on_gpu, args))):
        raise Waits("a tensor is made on the device from numbers of the host")
    if name not in ("to", "copy_", "cuda", "cpu", "numpy"):
        return
    source, others = (args[1], args[:1]) if name == "copy_" else (args[0], args[1:])
    to_gpu = name == "cuda" or named_gpu or any(map(_on_gpu, others))
    if to_gpu and _on_host(source) and not (kwargs.get("non_blocking") and getattr(source, "pinned", False)):
        raise Waits("memory goes to the device that is not pinned, or by a copy that is waited for")
    to_host = name in ("cpu", "numpy") or "cpu" in map(str, (*others, *kwargs.values())) or any(map(_on_host, others))
    if to_host and _on_gpu(source):
        raise Waits("a tensor is fetched from the device")


def _on_host(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 0 and not _on_gpu(value)


def _on_gpu(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == "cuda"


def _pinned(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.pinned = True  # type: ignore[attr-defined]
    return tensor


def _is_gpu(value: Any) -> bool:
    return (isinstance(value, torch.device) and value.type == "cuda") or (
        isinstance(value, str) and value.startswith("cuda")
    )


def _lend_a_guard() -> None:
    """A torch built without CUDA cannot guard its devices, as indexing does: it gets the guard of the meta device."""
    if torch.backends.cuda.is_built():
        return
    cuda, meta = 1, 14  # c10::DeviceType
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * (meta + 1)).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    guards[cuda] = guards[meta]


class ZerosCopy:
    """In the place of `HostCopy`, the one way by which anything comes back."""

    def __init__(self, tensor: torch.Tensor) -> None:
        assert tensor.device == GPU, f"a result lies on {tensor.device}"
        self._tensor = torch.zeros(tensor.shape, dtype=tensor.dtype)

    def get(self) -> torch.Tensor:
        return self._tensor


@contextlib.contextmanager
def fake_gpu() -> Iterator[FakeGpu]:
    """torch sees a GPU of compute capability 9.0 and 140 GB, and the engine works on it."""
    from tte_runtime.engine import engine, graphs, landing
    from tte_runtime.engine.staging import Stage

    def call(body: Any) -> Any:
        return body, body()

    class Unpinned(Stage):
        def __init__(self, *args: Any, pinned: bool) -> None:
            assert pinned, "a copy from memory that is not pinned waits"
            super().__init__(*args, pinned=False)
            self.block.pinned = True  # type: ignore[attr-defined]

    answers = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "device": lambda device: contextlib.nullcontext(),
        "get_device_capability": lambda *_: (9, 0),
        "get_device_name": lambda *_: "a fake",
        "mem_get_info": lambda *_: (100 << 30, 140 << 30),
    }
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        for name, value in (("HostCopy", ZerosCopy), ("cuda_capture", lambda: call)):
            stack.enter_context(mock.patch.object(engine, name, value))
        stack.enter_context(mock.patch.object(landing, "HostCopy", ZerosCopy))
        stack.enter_context(mock.patch.object(graphs, "Stage", Unpinned))
        stack.enter_context(mock.patch.object(torch.Tensor, "pin_memory", _pinned))
        # What fake tensors do where there is no GPU, which they would ask torch about.
        stack.enter_context(mock.patch.object(fake_tensor, "init_gpu_context", lambda device: None))
        stack.enter_context(mock.patch.object(FakeTensorMode, "avoid_device_init", True))
        yield stack.enter_context(FakeGpu())
