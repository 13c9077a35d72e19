"""Shapes on which decode_attention is proven and measured. Knows the op's cost, not its kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tte_kernels._case import BadInput, Case, Inputs, Op, Tolerance
from tte_kernels._inputs import as_slice, index_device, int_tensor, random_tensor, strided_rows
from tte_kernels.decode_attention import decode_attention
from tte_kernels.decode_attention.reference import decode_attention as reference
from tte_kernels.errors import KernelInputError, KernelTypeError

__all__ = ["ATTENTION_TOLERANCE", "MODELS", "OP", "bad_pages", "pages_of", "table_of"]

# (H, K, D); several models share a shape.
MODELS: dict[str, tuple[int, int, int]] = {
    "tte_tiny": (6, 2, 32),
    "qwen2vl_2b": (12, 2, 128),
    "qwen25vl_3b": (16, 2, 128),
    "qwen2vl_7b": (28, 4, 128),
    "qwen3vl_2b": (16, 8, 128),
    "qwen3vl_4b_8b": (32, 8, 128),
}

# Outputs are averages of unit values. fp32 differs by the order of the sums and by exp2 for exp; fp16 and
# bf16 round the weights p before the second product (2^-11 and 2^-8, over values up to about 4) and the
# result once more.
ATTENTION_TOLERANCE: dict[torch.dtype, Tolerance] = {
    torch.float32: Tolerance(atol=1e-5, rtol=1e-5),
    torch.float16: Tolerance(atol=2e-3, rtol=2e-3),
    torch.bfloat16: Tolerance(atol=1e-2, rtol=1.6e-2),
}


def table_of(kv_lens: Sequence[int], seed: int, device: str) -> tuple[torch.Tensor, int]:
    """(page_table [S, P] int32, number of pages): shuffled distinct pages, 0 (scratch) past the end of a
    sequence."""
    counts = [-(-length // 16) for length in kv_lens]
    total, width = sum(counts), max([*counts, 1]) + 1
    shuffled = (torch.randperm(total, generator=torch.Generator().manual_seed(seed)) + 1).tolist()
    rows = []
    for count in counts:
        rows.append(shuffled[:count] + [0] * (width - count))
        del shuffled[:count]
    return torch.tensor(rows, dtype=torch.int32, device=index_device(device)).reshape(len(kv_lens), width), total + 2


def pages_of(
    table: torch.Tensor,
    num_pages: int,
    kv_lens: Sequence[int],
    kv_heads: int,
    dim: int,
    seed: int,
    device: str,
    dtype: torch.dtype,
) -> torch.Tensor:
    """kv_pages [2, N, K, 16, D], random; NaN in every slot that no sequence owns, which must never count."""
    pages = random_tensor((2, num_pages, kv_heads, 16, dim), seed, device, dtype)
    if pages.is_meta:
        return pages
    owned = torch.zeros(num_pages, 16, dtype=torch.bool, device=device)
    for row, length in zip(table, kv_lens, strict=True):
        positions = torch.arange(length, device=device)
        owned[row[positions // 16].long(), positions % 16] = True
    pages.transpose(2, 3)[:, ~owned] = float("nan")
    return pages


def _case(
    name: str,
    kv_lens: Sequence[int],
    heads: int,
    kv_heads: int,
    dim: int,
    strided: bool = False,
    tag: str = "ci",
) -> Case:
    seqs, keys = len(kv_lens), sum(kv_lens)

    def make_inputs(seed: int, device: str, dtype: torch.dtype) -> Inputs:
        make = strided_rows if strided else random_tensor
        table, num_pages = table_of(kv_lens, seed + 1, device)
        return {
            "q": make((seqs, heads, dim), seed, device, dtype),
            "kv_pages": pages_of(table, num_pages, kv_lens, kv_heads, dim, seed + 2, device, dtype),
            "page_table": as_slice(table) if strided else table,
            "kv_lens": int_tensor(kv_lens, device),
            "scale": dim**-0.5,
        }

    entries = sum(-(-length // 16) for length in kv_lens)
    return Case(
        name=name,
        dims={"S": seqs, "H": heads, "K": kv_heads, "D": dim, "keys": keys},
        make_inputs=make_inputs,
        bytes_of=lambda dtype: 2 * (seqs * heads + keys * kv_heads) * dim * dtype.itemsize + 4 * (entries + seqs),
        flops=4 * heads * dim * keys,
        tag="model" if tag == "model" else "ci",
    )


def _traffic(inputs: Inputs, outputs: tuple[torch.Tensor, ...]) -> tuple[int, int]:
    q, pages, lens = inputs["q"], inputs["kv_pages"], inputs["kv_lens"].long()
    key_bytes = 2 * pages.shape[2] * pages.shape[4] * pages.element_size()
    moved = q.nbytes + outputs[0].nbytes + lens.sum().item() * key_bytes
    # Two products (q k, p v), a multiply and an add each, of every head with every key.
    flops = lens.sum().item() * q.shape[1] * q.shape[2] * 4
    return int(moved + 4 * ((lens + 15) // 16).sum().item() + inputs["kv_lens"].nbytes), int(flops)


def _take_rows(inputs: Inputs, keep: Sequence[int]) -> Inputs:
    index = torch.tensor(keep, device=inputs["q"].device)
    return inputs | {name: inputs[name][index] for name in ("q", "page_table", "kv_lens")}


def bad_pages() -> tuple[BadInput, ...]:
    """Ways to break the arguments that both attention ops share."""

    def heads(inputs: Inputs) -> Inputs:
        return inputs | {"q": inputs["q"].repeat(1, 17, 1)}

    def head_dim(inputs: Inputs) -> Inputs:
        return inputs | {"q": inputs["q"][..., :24], "kv_pages": inputs["kv_pages"][..., :24].contiguous()}

    def changed(name: str, change: Any) -> Any:
        return lambda inputs: inputs | {name: change(inputs[name])}

    return (
        BadInput("dtype-int", changed("q", torch.Tensor.int), KernelTypeError, "q must have dtype"),
        BadInput(
            "dtype-pages",
            changed("kv_pages", torch.Tensor.double),
            KernelTypeError,
            "kv_pages must have dtype",
        ),
        BadInput(
            "dtype-table",
            changed("page_table", torch.Tensor.long),
            KernelTypeError,
            "page_table must have dtype",
        ),
        BadInput("dtype-lens", changed("kv_lens", torch.Tensor.long), KernelTypeError, "kv_lens must have dtype"),
        BadInput("shape-rank", changed("q", lambda q: q[None]), KernelInputError, r"q must have shape \["),
        BadInput("shape-lens", changed("kv_lens", lambda v: v[None]), KernelInputError, "kv_lens must have shape"),
        BadInput(
            "page-size",
            changed("kv_pages", lambda p: p[:, :, :, :8]),
            KernelInputError,
            "kv_pages must have shape",
        ),
        BadInput("heads", heads, KernelInputError, "H of q must be 1 to 16 times K"),
        BadInput("head-dim", head_dim, KernelInputError, "head dim of kv_pages must be one of 32, 64, 128, got 24"),
        BadInput("stride", changed("q", lambda q: q.mT.contiguous().mT), KernelInputError, "q must be contiguous"),
        BadInput("device", changed("kv_lens", lambda v: v.to("meta")), KernelInputError, "kv_lens must be on"),
        BadInput("scale", changed("scale", lambda _: 0.0), KernelInputError, "scale must be > 0 and finite, got 0.0"),
        BadInput(
            "type",
            changed("page_table", torch.Tensor.tolist),
            KernelTypeError,
            "page_table must be a torch.Tensor",
        ),
    )


CASES: list[Case] = [
    _case("empty", (), 6, 2, 32),
    _case("S1-L1", (1,), 6, 2, 32),
    _case("S4-L63-127-129-0", (63, 127, 129, 0), 6, 2, 32),
    _case("S3-L16-17-64-strided", (16, 17, 64), 4, 4, 64, strided=True),
    _case("S2-L1000-1-G1", (1000, 1), 1, 1, 32),
    _case("S2-L65-128-G16", (65, 128), 16, 1, 64),
    _case("S2-L129-40-D128-G7", (129, 40), 14, 2, 128),
    _case("S2-L1025-1024", (1025, 1024), 2, 1, 32),
    _case("S1-L4100", (4100,), 2, 1, 32),
    *(_case(f"S2-L17-65-G{group}", (17, 65), group, 1, 32) for group in (4, 5, 6, 8)),
    *(
        _case(f"{model}-{label}", kv_lens, *shape, tag="model")
        for model, shape in MODELS.items()
        for label, kv_lens in (("S1-L1000", (1000,)), ("S8-L1500", (1500,) * 8), ("S32-L8192", (8192,) * 32))
    ),
]

OP = Op(
    name="decode_attention",
    fn=decode_attention,
    reference=reference,
    cases=CASES,
    tolerance=ATTENTION_TOLERANCE,
    formula="out = softmax(scale * q k^T) v, one query a sequence, keys and values in pages",
    used_by="every layer of the decode path",
    traffic=_traffic,
    num_rows=lambda inputs: int(inputs["q"].shape[0]),
    take_rows=_take_rows,
    opcheck=lambda inputs: [(torch.ops.tte.decode_attention.default, tuple(inputs.values()))],
    bad_inputs=bad_pages(),
)
