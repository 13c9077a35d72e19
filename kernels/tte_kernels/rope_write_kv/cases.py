"""Shapes on which rope_write_kv is proven and measured. Knows the op's cost, not its kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tte_kernels._case import BadInput, Case, Inputs, Op, Tolerance
from tte_kernels._inputs import as_slice, index_device, random_tensor, strided_rows
from tte_kernels.errors import KernelInputError, KernelTypeError
from tte_kernels.rope_write_kv import rope_write_kv
from tte_kernels.rope_write_kv.reference import rope_write_kv as reference

__all__ = ["OP"]


def _case(
    name: str,
    tokens: int,
    heads: int,
    kv_heads: int,
    dim: int,
    norm: bool = False,
    strided: bool = False,
    tag: str = "ci",
) -> Case:
    pages = tokens // 16 + 3

    def make_inputs(seed: int, device: str, dtype: torch.dtype) -> Inputs:
        make = strided_rows if strided else random_tensor
        angles = random_tensor((tokens, dim // 2), seed + 1, device, torch.float32, scale=100.0)
        # Distinct slots in shuffled order, none on the scratch page.
        order = torch.randperm((pages - 1) * 16, generator=torch.Generator().manual_seed(seed + 2))[:tokens] + 16
        weights = [1 + 0.1 * random_tensor((dim,), seed + n, device, dtype) for n in (3, 4)] if norm else [None, None]
        return {
            "qkv": make((tokens, (heads + 2 * kv_heads) * dim), seed, device, dtype),
            "cos": as_slice(angles.cos()) if strided else angles.cos(),
            "sin": as_slice(angles.sin()) if strided else angles.sin(),
            "kv_pages": random_tensor((2, pages, kv_heads, 16, dim), seed + 5, device, dtype),
            "slots": order.to(index_device(device)),
            "num_heads": heads,
            "q_norm": weights[0],
            "k_norm": weights[1],
            "eps": 1e-6,
        }

    width = (heads + 2 * kv_heads) * dim
    return Case(
        name=name,
        dims={"T": tokens, "H": heads, "K": kv_heads, "D": dim},
        make_inputs=make_inputs,
        bytes_of=lambda dtype: (2 * tokens * width + norm * 2 * dim) * dtype.itemsize + tokens * (dim * 4 + 8),
        flops=tokens * (heads + kv_heads) * dim * (7 if norm else 3),
        tag="model" if tag == "model" else "ci",
    )


def _traffic(inputs: Inputs, outputs: tuple[torch.Tensor, ...]) -> tuple[int, int]:
    qkv, q = inputs["qkv"], outputs[0]
    # qkv is read once and written once (into q and the pages), cos, sin and slots are read once.
    moved = 2 * qkv.nbytes + inputs["cos"].nbytes + inputs["sin"].nbytes + inputs["slots"].nbytes
    norms = [weight for weight in (inputs["q_norm"], inputs["k_norm"]) if weight is not None]
    moved += sum(weight.nbytes for weight in norms)
    keys = qkv.shape[0] * inputs["kv_pages"].shape[2] * inputs["kv_pages"].shape[4]
    # Rotary: two products and a sum an element; norm: square, sum, scale, weight.
    return moved, (q.numel() + keys) * (3 + 4 * bool(norms))


def _take_rows(inputs: Inputs, keep: Sequence[int]) -> Inputs:
    index = torch.tensor(keep, device=inputs["qkv"].device)
    return inputs | {name: inputs[name][index] for name in ("qkv", "cos", "sin", "slots")}


def _opcheck(inputs: Inputs) -> list[tuple[object, tuple[object, ...]]]:
    names = ("qkv", "cos", "sin", "kv_pages", "slots", "num_heads", "q_norm", "k_norm", "eps")
    return [(torch.ops.tte.rope_write_kv.default, tuple(inputs[name] for name in names))]


CASES: list[Case] = [
    _case("empty", 0, 6, 2, 32),
    _case("T1-tiny", 1, 6, 2, 32),
    _case("T63-norm", 63, 4, 1, 64, norm=True),
    _case("T129-strided", 129, 2, 2, 32, strided=True),
    _case("T7-D128-norm-strided", 7, 16, 1, 128, norm=True, strided=True),
    _case("T3-D128-H28", 3, 28, 4, 128),
    _case("T33-H1-K1", 33, 1, 1, 64),
    _case("T127-H5-K1", 127, 5, 1, 32, norm=True),
    _case("T1000-H2-K2", 1000, 2, 2, 32),
    *(
        _case(f"{model}-T{tokens}", tokens, heads, kv_heads, dim, norm, tag="model")
        for model, heads, kv_heads, dim, norm in (
            ("tte_tiny", 6, 2, 32, False),
            ("qwen2vl_2b", 12, 2, 128, False),
            ("qwen25vl_3b", 16, 2, 128, False),
            ("qwen2vl_7b", 28, 4, 128, False),
            ("qwen3vl_2b", 16, 8, 128, True),
            ("qwen3vl_4b_8b", 32, 8, 128, True),
        )
        for tokens in (1, 64, 1000, 4096)
    ),
]

OP = Op(
    name="rope_write_kv",
    fn=rope_write_kv,
    reference=reference,
    cases=CASES,
    # One rounding at the end: half a unit in the last place, plus the fp32 order of the norm's sum. |x|
    # reaches 6.
    tolerance={
        torch.float32: Tolerance(atol=1e-5, rtol=1e-5),
        torch.float16: Tolerance(atol=1e-3, rtol=1e-3),
        torch.bfloat16: Tolerance(atol=1e-3, rtol=8e-3),
    },
    formula="q, k = rotary(norm(q), norm(k)); kv_pages[slots] = k, v",
    used_by="every decoder layer",
    traffic=_traffic,
    mutates=("kv_pages",),
    num_rows=lambda inputs: int(inputs["qkv"].shape[0]),
    take_rows=_take_rows,
    opcheck=_opcheck,
    bad_inputs=(
        BadInput("dtype-qkv", lambda i: i | {"qkv": i["qkv"].double()}, KernelTypeError, "qkv must have dtype"),
        BadInput("dtype-slots", lambda i: i | {"slots": i["slots"].int()}, KernelTypeError, "slots must have dtype"),
        BadInput("dtype-cos", lambda i: i | {"cos": i["cos"].half()}, KernelTypeError, "cos must have dtype"),
        BadInput("shape-qkv", lambda i: i | {"qkv": i["qkv"][:, 1:]}, KernelInputError, "qkv must have shape"),
        BadInput("shape-sin", lambda i: i | {"sin": i["sin"][:, :-1]}, KernelInputError, "sin must have shape"),
        BadInput("heads", lambda i: i | {"num_heads": 0}, KernelInputError, "num_heads must be >= 1, got 0"),
        BadInput(
            "head-dim",
            lambda i: i | {"kv_pages": i["kv_pages"][..., :16]},
            KernelInputError,
            "head dim .* one of 32, 64",
        ),
        BadInput(
            "page-size",
            lambda i: i | {"kv_pages": i["kv_pages"][:, :, :, :8]},
            KernelInputError,
            "kv_pages must have shape",
        ),
        BadInput(
            "stride",
            lambda i: i | {"qkv": i["qkv"].T.contiguous().T},
            KernelInputError,
            "contiguous in its last",
        ),
        BadInput("device", lambda i: i | {"slots": i["slots"].to("meta")}, KernelInputError, "slots must be on"),
        BadInput(
            "one-norm",
            lambda i: i | {"q_norm": i["qkv"][0, :1], "k_norm": None},
            KernelInputError,
            "both be given",
        ),
    ),
)
