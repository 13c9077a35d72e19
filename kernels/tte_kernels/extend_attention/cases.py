"""Shapes on which extend_attention is proven and measured. Knows the op's cost, not its kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tte_kernels._case import BadInput, Case, Inputs, Op
from tte_kernels._inputs import as_slice, cumulative, int_tensor, random_tensor, strided_rows
from tte_kernels.decode_attention.cases import ATTENTION_TOLERANCE, MODELS, bad_pages, pages_of, table_of
from tte_kernels.errors import KernelInputError
from tte_kernels.extend_attention import extend_attention
from tte_kernels.extend_attention.reference import extend_attention as reference

__all__ = ["OP"]


def _case(
    name: str,
    spans: Sequence[tuple[int, int]],
    heads: int,
    kv_heads: int,
    dim: int,
    strided: bool = False,
    tag: str = "ci",
) -> Case:
    """A case of sequences given as (prefix, new tokens)."""
    query_lens, kv_lens = [new for _, new in spans], [prefix + new for prefix, new in spans]
    tokens, seqs = sum(query_lens), len(spans)

    def make_inputs(seed: int, device: str, dtype: torch.dtype) -> Inputs:
        make = strided_rows if strided else random_tensor
        table, num_pages = table_of(kv_lens, seed + 1, device)
        return {
            "q": make((tokens, heads, dim), seed, device, dtype),
            "kv_pages": pages_of(table, num_pages, kv_lens, kv_heads, dim, seed + 2, device, dtype),
            "page_table": as_slice(table) if strided else table,
            "cu_seqlens": cumulative(query_lens, device),
            "kv_lens": int_tensor(kv_lens, device),
            "scale": dim**-0.5,
            "max_query_len": max([*query_lens, 0]),
        }

    read = [kv if new else 0 for new, kv in zip(query_lens, kv_lens, strict=True)]
    seen = sum(prefix * new + new * (new + 1) // 2 for prefix, new in spans)  # (query, key) pairs
    small = 4 * (sum(-(-length // 16) for length in read) + 2 * seqs + 1)
    return Case(
        name=name,
        dims={"T": tokens, "S": seqs, "H": heads, "K": kv_heads, "D": dim, "keys": sum(read)},
        make_inputs=make_inputs,
        bytes_of=lambda dtype: 2 * (tokens * heads + sum(read) * kv_heads) * dim * dtype.itemsize + small,
        flops=4 * heads * dim * seen,
        tag="model" if tag == "model" else "ci",
    )


def _traffic(inputs: Inputs, outputs: tuple[torch.Tensor, ...]) -> tuple[int, int]:
    q, pages = inputs["q"], inputs["kv_pages"]
    query_lens, kv_lens = inputs["cu_seqlens"].diff().long(), inputs["kv_lens"].long()
    read = kv_lens[query_lens > 0]
    key_bytes = 2 * pages.shape[2] * pages.shape[4] * pages.element_size()
    moved = q.nbytes + outputs[0].nbytes + read.sum().item() * key_bytes + 4 * ((read + 15) // 16).sum().item()
    moved += inputs["cu_seqlens"].nbytes + inputs["kv_lens"].nbytes
    pairs = sum(
        torch.arange(kv_len - new, kv_len).add(1).sum().item()
        for new, kv_len in zip(query_lens.tolist(), kv_lens.tolist(), strict=True)
    )
    return int(moved), int(pairs * q.shape[1] * q.shape[2] * 4)


def _take_rows(inputs: Inputs, keep: Sequence[int]) -> Inputs:
    """Every kept token as a chunk of its own: the same position, the same pages, nobody beside it."""
    bounds, kv_lens = inputs["cu_seqlens"].tolist(), inputs["kv_lens"].tolist()
    owner = [next(s for s in range(len(kv_lens)) if bounds[s] <= t < bounds[s + 1]) for t in keep]
    lengths = [kv_lens[s] - (bounds[s + 1] - t) + 1 for s, t in zip(owner, keep, strict=True)]
    device = inputs["q"].device
    return inputs | {
        "q": inputs["q"][torch.tensor(keep, device=device)],
        "page_table": inputs["page_table"][torch.tensor(owner, device=device)],
        "cu_seqlens": cumulative([1] * len(keep), str(device)),
        "kv_lens": int_tensor(lengths, str(device)),
        "max_query_len": 1,
    }


CASES: list[Case] = [
    _case("empty", (), 6, 2, 32),
    _case("T1", ((0, 1),), 6, 2, 32),
    _case("T1-prefix1000", ((1000, 1),), 6, 2, 32),
    _case("T63-127", ((0, 63), (0, 127)), 6, 2, 32),
    _case("T129-prefix-0-40-16-strided", ((0, 70), (40, 58), (16, 1)), 4, 4, 64, strided=True),
    _case("T7-with-idle-sequence", ((5, 3), (20, 0), (63, 4)), 2, 1, 32),
    _case("T20-D128-G16", ((50, 20),), 16, 1, 128),
    _case("T33-D128-G7", ((0, 16), (100, 17)), 14, 2, 128),
    _case("T100-prefix200-G2", ((200, 100),), 2, 1, 64),
    _case("T1000-G1", ((0, 1000),), 1, 1, 32),
    _case("T129-one-sequence", ((0, 129),), 2, 1, 32),
    _case("T0-S2-idle", ((20, 0), (5, 0)), 2, 1, 32),
    *(_case(f"T5-G{group}", ((60, 5),), group, 1, 32) for group in (4, 5, 6, 8)),
    *(
        _case(f"{model}-{label}", spans, *shape, tag="model")
        for model, shape in MODELS.items()
        for label, spans in (
            ("T4096", ((0, 4096),)),
            ("T512-prefix1000", ((1000, 512),)),
            ("T1700-mixed", ((0, 20), (300, 900), (0, 715), (33, 1), (1500, 64))),
        )
    ),
]

OP = Op(
    name="extend_attention",
    fn=extend_attention,
    reference=reference,
    cases=CASES,
    tolerance=ATTENTION_TOLERANCE,
    formula="out = softmax(scale * q k^T + causal) v, new tokens over cached pages and themselves",
    used_by="every layer of the prefill path, and the embedding heads",
    traffic=_traffic,
    num_rows=lambda inputs: int(inputs["q"].shape[0]),
    take_rows=_take_rows,
    opcheck=lambda inputs: [(torch.ops.tte.extend_attention.default, tuple(inputs.values()))],
    bad_inputs=(
        *bad_pages(),
        BadInput(
            "cu-seqlens",
            lambda i: i | {"cu_seqlens": i["cu_seqlens"][:-1]},
            KernelInputError,
            "cu_seqlens must have shape",
        ),
        BadInput(
            "too-short",
            lambda i: i | {"max_query_len": 1},
            KernelInputError,
            "max_query_len must be at least the most new tokens",
        ),
    ),
)
