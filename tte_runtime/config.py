"""What the engine may be told, frozen, and resolved once: every "auto" becomes a fact in `resolve`.

Knows devices and sizes; knows nothing of requests, recipes or pictures.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch

from tte_runtime.errors import OptionError, one_of

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KERNELS = ("auto", "triton", "numba", "torch")
_OF_A_CPU = ("w16", "w8a8")
WEIGHTS = {"torch": _OF_A_CPU, "numba": _OF_A_CPU, "triton": ("w16", "w8a16", "w4a16")}  # formats of each backend
ATTENTION = ("auto", "triton", "sdpa", "flash-attn", "xformers")
SMALL_MATRIX = 2**18  # elements; a product of one row with fewer takes less time than waking a second thread
DECODE_ROWS = 64  # that a decode step may take whatever the batch: what lanes leave is for suffixes and replays
PAGE_SIZE = 16  # tokens; pinned: pages, their keys and the kernels agree on it
MAX_STOPS = 8  # tokens that may end a trace; they are checked where tokens are drawn, in memory of fixed size


@dataclass(frozen=True)
class EngineConfig:
    """Options of the engine.

    Attributes:
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", ...
        kernels: "auto", "triton" (our kernels on a GPU), "numba" (a CPU's steps compiled) or "torch". "auto" is
            Triton on CUDA, and Numba on a CPU where it is installed and the dtype and format allow it.
        dtype: "auto" (bfloat16 on CUDA, float32 on a CPU), "float32", "bfloat16", "float16".
        weights: how the decoder's matrices are kept: "auto" and "w16" as `dtype` says; "w8a8" on a CPU, weights and
            activations of 8 bits; "w8a16" and "w4a16" on our Triton kernels, for decoded tokens. Others lose a little.
        attention: who computes attention over prompts: "auto" is the backend's own ("triton" or, for torch, "sdpa");
            "sdpa", "flash-attn" and "xformers" can take prompts over from either. What Numba compiles has its own and
            is called "sdpa". Equal bits are promised for our own kernels and for what Numba compiles in float32 only,
            so another choice is part of the fingerprint. Traces are always decoded by the backend.
        pdl: programmatic dependent launch of our kernels, on GPUs of compute capability 9.0 and newer; of the whole
            process, as the last embedder loaded on a GPU says. Off until it is measured.
        max_context: most tokens of one request, prompt, trace and suffix together; "auto" is the model's
            own limit, capped at 32,768.
        kv_cache_tokens: tokens the paged KV cache holds, all requests and the prefix cache together;
            "auto" is 64k tokens or 1 GiB (8 GiB on CUDA), whichever is less, and at least one full context.
        max_batch_size: most requests in work at once, and most rows of a decode step.
        max_prefill_tokens: most prompt tokens of one prefill step; longer prompts are cut into chunks.
        prefix_cache: keep pages of finished prompts and find them again by content.
        vision_cache_mb: MiB of picture features kept by content; 0 keeps none.
        overlap: land a step after the next one was launched, so that a GPU never waits for the host; "auto" on CUDA.
        cuda_graphs: run decode steps as captured graphs; "auto" with our kernels on CUDA, refused elsewhere.
        threads: most CPU threads that share a compiled call, where it is worth sharing; "auto" is what torch has found.
        torch_threads: CPU threads of torch on the engine's own thread, whatever the process uses elsewhere; "auto" is 1
            for a model whose matrices are too small to be worth dividing, else `threads`.
        preprocess_workers: threads that decode and resize pictures beside the engine's loop.
    """

    device: str = "auto"
    kernels: str = "auto"
    dtype: str = "auto"
    weights: str = "auto"
    attention: str = "auto"
    pdl: bool = False
    max_context: int | Literal["auto"] = "auto"
    kv_cache_tokens: int | Literal["auto"] = "auto"
    max_batch_size: int = 32
    max_prefill_tokens: int = 512
    prefix_cache: bool = True
    vision_cache_mb: int = 256
    overlap: bool | Literal["auto"] = "auto"
    cuda_graphs: bool | Literal["auto"] = "auto"
    threads: int | Literal["auto"] = "auto"
    torch_threads: int | Literal["auto"] = "auto"
    preprocess_workers: int = 4

    @classmethod
    def from_options(cls, **options: Any) -> EngineConfig:
        """A config from keyword options; raises OptionError for unknown names, listing the known ones."""
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise OptionError(one_of("option", name, known))
        return cls(**options)

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_prefill_tokens", "preprocess_workers"):
            _require_positive(name, getattr(self, name))
        for name in ("max_context", "kv_cache_tokens", "threads", "torch_threads"):
            if getattr(self, name) != "auto":
                _require_positive(name, getattr(self, name))
        if self.vision_cache_mb < 0:
            raise OptionError(f"vision_cache_mb must be >= 0, got {self.vision_cache_mb}. Use 0 to keep none.")
        if self.dtype != "auto" and self.dtype not in DTYPES:
            raise OptionError(one_of("dtype", self.dtype, ["auto", *DTYPES]))
        for name in ("overlap", "cuda_graphs"):
            if getattr(self, name) not in (True, False, "auto"):
                raise OptionError(f'{name} must be True, False or "auto", got {getattr(self, name)!r}.')
        if self.pdl not in (True, False):
            raise OptionError(f"pdl must be True or False, got {self.pdl!r}.")
        for name, known in (("kernels", KERNELS), ("attention", ATTENTION)):
            if getattr(self, name) not in known:
                raise OptionError(one_of(name, getattr(self, name), known))
        formats = sorted({"auto"}.union(*WEIGHTS.values()))
        if self.weights not in formats:
            raise OptionError(one_of("weights", self.weights, formats))

    @property
    def torch_dtype(self) -> torch.dtype:
        """The resolved dtype of weights and activations."""
        assert self.dtype != "auto", "resolve() the config first"
        return DTYPES[self.dtype]

    @property
    def precision(self) -> str:
        """What decides the vectors' numbers besides the checkpoint: the dtype, and what is not the backend's own."""
        parts = [self.dtype]
        if self.weights not in ("auto", "w16"):
            parts.append(self.weights)
        if self.attention not in ("auto", self.own_attention):
            parts.append(f"attention {self.attention}")
        return ", ".join(parts)

    @property
    def own_attention(self) -> str:
        """The prefill attention that belongs to the resolved backend."""
        return "triton" if self.kernels == "triton" else "sdpa"

    @property
    def num_pages(self) -> int:
        """Pages of the pool, scratch page 0 included."""
        assert self.kv_cache_tokens != "auto", "resolve() the config first"
        return 1 + -(-self.kv_cache_tokens // PAGE_SIZE)

    def resolve(self, *, model_context: int, bytes_per_token: int, largest_matrix: int | None = None) -> EngineConfig:
        """A copy in which every "auto" is a fact.

        Args:
            model_context: longest context the checkpoint declares, in tokens.
            bytes_per_token: bytes of keys, values and taps that one cached token takes in float32; halved
                here for 16-bit dtypes.
            largest_matrix: elements of the decoder's largest matrix, where they are known.

        Raises:
            OptionError: the device is unknown or absent, or the cache cannot hold one context.
        """
        device = resolve_device(self.device)
        on_gpu = device.startswith("cuda")
        dtype = self.dtype if self.dtype != "auto" else ("bfloat16" if on_gpu else "float32")
        context = min(model_context, 32_768) if self.max_context == "auto" else self.max_context
        if context > model_context:
            raise OptionError(f"max_context must be <= {model_context} for this model, got {context}.")
        kernels = self.kernels
        if kernels == "auto":
            kernels = "triton" if on_gpu else ("torch" if no_numba(device, dtype, self.weights) else "numba")
        elif kernels == "numba" and (reason := no_numba(device, dtype, self.weights)):
            raise OptionError(f'kernels="numba" cannot run here: {reason}. Use kernels="auto".')
        if self.cuda_graphs is True and not (on_gpu and kernels == "triton"):
            raise OptionError(
                f"cuda_graphs=True needs our kernels on a GPU, got kernels={kernels!r} on {device!r}. "
                'Use cuda_graphs="auto".'
            )
        if self.attention == "triton" and kernels != "triton":
            raise OptionError(f'attention="triton" is part of kernels="triton", got kernels={kernels!r}. Use "sdpa".')
        if self.pdl and not (on_gpu and kernels == "triton" and _has_pdl(device)):
            raise OptionError(
                "pdl=True needs our kernels on an NVIDIA GPU of compute capability 9.0, got "
                f"kernels={kernels!r} on {device!r}. Use pdl=False."
            )
        threads = torch.get_num_threads() if self.threads == "auto" else self.threads
        small = largest_matrix is not None and largest_matrix <= SMALL_MATRIX
        torch_threads = (1 if small else threads) if self.torch_threads == "auto" else self.torch_threads
        cache = self.kv_cache_tokens
        if cache == "auto":
            budget = (8 if on_gpu else 1) * 2**30
            per_token = bytes_per_token if dtype == "float32" else max(bytes_per_token // 2, 1)
            cache = max(context, min(64 * 1024, budget // per_token))
        return replace(
            self,
            device=device,
            kernels=kernels,
            dtype=dtype,
            attention=("triton" if kernels == "triton" else "sdpa") if self.attention == "auto" else self.attention,
            weights=_resolve_weights(self.weights, kernels, on_gpu),
            max_context=context,
            kv_cache_tokens=cache,
            threads=threads,
            torch_threads=torch_threads,
            overlap=on_gpu if self.overlap == "auto" else self.overlap,
            cuda_graphs=on_gpu and kernels == "triton" if self.cuda_graphs == "auto" else self.cuda_graphs,
        )

    def _why_torch(self) -> str:
        reason = no_numba(self.device, self.dtype, self.weights)
        return f" ({reason})" if self.kernels == "torch" and self.device == "cpu" and reason else ""

    def describe(self) -> str:
        """One line that says what runs, for logs and `tte env`."""
        return (
            f"device={self.device} kernels={self.kernels}{self._why_torch()} "
            f"attention={self.attention} dtype={self.dtype} weights={self.weights} "
            f"threads={self.threads} torch_threads={self.torch_threads} context={self.max_context} "
            f"kv_cache={self.kv_cache_tokens} tokens batch={self.max_batch_size} chunk={self.max_prefill_tokens} "
            f"prefix_cache={'on' if self.prefix_cache else 'off'} overlap={'on' if self.overlap else 'off'} "
            f"cuda_graphs={'on' if self.cuda_graphs else 'off'} pdl={'on' if self.pdl else 'off'}"
        )


def no_numba(device: str, dtype: str, weights: str) -> str | None:
    """Why steps cannot be compiled by Numba; `None` where they can."""
    if device != "cpu":
        return f"it is for a CPU, got device={device!r}"
    if dtype == "float16":
        return "it keeps float32 and bfloat16, got float16"
    if weights not in ("auto", *WEIGHTS["numba"]):
        return f"weights={weights!r} is another backend's format"
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed (pip install numba)"
    return None


def _require_positive(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise OptionError(f"{name} must be a positive integer, got {value!r}.")


def _has_pdl(device: str) -> bool:
    return not torch.version.hip and torch.cuda.get_device_capability(device) >= (9, 0)  # gfx942 calls itself 9.4


def _resolve_weights(weights: str, kernels: str, on_gpu: bool) -> str:
    if weights == "auto":
        return "w16"
    formats = [name for name in WEIGHTS[kernels] if not (on_gpu and name == "w8a8")]  # 8-bit activations: CPU only
    if weights not in formats:
        where = f'kernels="{kernels}" on {"a GPU" if on_gpu else "a CPU"}'
        raise OptionError(f"weights={weights!r} is not available with {where}. Available: {', '.join(formats)}.")
    return weights


def resolve_device(device: str) -> str:
    """The device that is meant, "auto" made a fact; raises OptionError where it is unknown or not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise OptionError(f"unknown device {device!r}. Known: auto, cpu, cuda, cuda:N.") from error
    if kind not in ("cpu", "cuda"):
        raise OptionError(one_of("device", device, ["auto", "cpu", "cuda", "cuda:N"]))
    if kind == "cuda" and not torch.cuda.is_available():
        raise OptionError(f'device {device!r} was asked for, but torch sees no CUDA device. Use device="cpu".')
    return device
