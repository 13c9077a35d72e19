"""Launcher of decode_attention, the lengths of its splits and its table of configurations.

The length of a split is a function of the sequence's own kv_len, so no row depends on the batch. Grid sizes
follow from shapes only, so that one CUDA graph serves all lengths. The Triton code stands in _kernels.py.
Arguments are taken as checked by the door.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton

from tte_kernels._attend import BLOCK_N, LOG2_E, PAGE_SIZE
from tte_kernels._case import CompileSpec
from tte_kernels._launch import launch_options, pdl_enabled, require_backend
from tte_kernels.decode_attention._kernels import decode_attention_kernel, merge_splits_kernel

__all__ = ["compile_specs", "launch", "max_splits"]


@dataclass(frozen=True)
class _Config:
    num_warps: int
    num_stages: int


# Keyed by (head dim, bytes an element). Page numbers take a stage of their own, so five stages keep two tiles
# of keys and values in flight; a split is one to four tiles long.
# Compiled and gated, unmeasured on hardware.
_CONFIGS: dict[tuple[int, int], _Config] = {
    (32, 2): _Config(4, 5),
    (64, 2): _Config(4, 5),
    (128, 2): _Config(4, 5),
    (32, 4): _Config(4, 2),
    (64, 4): _Config(8, 1),
    (128, 4): _Config(8, 1),
}
# Programs that fill the card four times over (132 SMs of an H200), and the least a sequence and kv head get: a page
# table as wide as the longest context, as a captured graph has, must not launch one program for every split of it.
ENOUGH_PROGRAMS = 4 * 132
MIN_PROGRAMS = 16
BLOCK_H = 16
MERGE_SPLITS = 16
# (longest kv_len, keys a split): short sequences want many programs, long ones little to merge. These numbers
# are part of a row's bits: changing them changes results by rounding, for every index in use.
_SHORT, _SHORT_SPLIT = 1024, 64
_MIDDLE, _MIDDLE_SPLIT = 4096, 128
_LONG_SPLIT = 256
_SPLITS = {
    "SHORT": _SHORT,
    "MIDDLE": _MIDDLE,
    "SHORT_SPLIT": _SHORT_SPLIT,
    "MIDDLE_SPLIT": _MIDDLE_SPLIT,
    "LONG_SPLIT": _LONG_SPLIT,
}


def max_splits(capacity: int) -> int:
    """The most splits that any sequence of up to `capacity` keys is cut into."""
    most = triton.cdiv(min(capacity, _SHORT), _SHORT_SPLIT)
    if capacity > _SHORT:
        most = max(most, triton.cdiv(min(capacity, _MIDDLE), _MIDDLE_SPLIT))
    if capacity > _MIDDLE:
        most = max(most, triton.cdiv(capacity, _LONG_SPLIT))
    return most


def split_programs(num_splits: int, num_rows: int) -> int:
    """Programs that share the splits of one row, a sequence and a kv head; shapes alone decide."""
    return min(num_splits, max(MIN_PROGRAMS, triton.cdiv(ENOUGH_PROGRAMS, num_rows)))


def launch(
    q: torch.Tensor, kv_pages: torch.Tensor, page_table: torch.Tensor, kv_lens: torch.Tensor, *, scale: float
) -> torch.Tensor:
    """Unchecked decode_attention; see the door for the contract. An empty batch launches nothing."""
    require_backend("decode_attention", q)
    num_seqs, num_heads, head_dim = q.shape
    out = torch.empty((num_seqs, num_heads, head_dim), dtype=q.dtype, device=q.device)
    if num_seqs == 0:
        return out
    num_kv_heads = kv_pages.shape[2]
    num_splits = max(1, max_splits(page_table.shape[1] * PAGE_SIZE))
    config = _CONFIGS[head_dim, q.element_size()]
    parts = (num_seqs, num_heads, num_splits)
    acc = torch.empty((*parts, head_dim), dtype=torch.float32, device=q.device)
    # Each an allocation of its own, and so aligned: Triton would compile again for a batch whose half is not.
    maxima, sums = (torch.empty(parts, dtype=torch.float32, device=q.device) for _ in range(2))
    programs = split_programs(num_splits, num_seqs * num_kv_heads)
    decode_attention_kernel[(num_seqs, num_kv_heads, programs)](
        q,
        kv_pages,
        page_table,
        kv_lens,
        acc,
        maxima,
        sums,
        scale * LOG2_E,
        num_splits,
        q.stride(0),
        q.stride(1),
        *kv_pages.stride()[:4],
        page_table.stride(0),
        GROUP=num_heads // num_kv_heads,
        HEAD_DIM=head_dim,
        ROWS=BLOCK_H,
        BLOCK=BLOCK_N,
        PAGE=PAGE_SIZE,
        PDL=pdl_enabled(),
        **_SPLITS,
        **launch_options(config.num_warps, config.num_stages),
    )
    merge_splits_kernel[(num_seqs, num_heads)](
        acc,
        maxima,
        sums,
        kv_lens,
        out,
        num_splits,
        HEAD_DIM=head_dim,
        BLOCK=MERGE_SPLITS,
        PDL=pdl_enabled(),
        **_SPLITS,
        **launch_options(1, 1),
    )
    return out


def compile_specs() -> list[CompileSpec]:
    """Every head dim in bf16 and fp32 at six heads a kv head, the models' groups and the extremes, and the merge."""
    variants = [(dim, size, 6, False) for dim, size in _CONFIGS] + [(32, 2, 3, False)]
    variants += [(128, 2, group, False) for group in (1, 2, 4, 7, 8, 16)] + [(dim, 2, 6, True) for dim in (32, 64, 128)]
    merges = [(dim, pdl) for dim in (32, 64, 128) for pdl in (False, True)]
    halves = [_split_spec(dim, 2, 6, False, "fp16") for dim in (32, 64, 128)]
    halves += [_merge_spec(dim, False, dtype) for dim in (32, 64, 128) for dtype in ("fp16", "fp32")]
    return [_split_spec(*variant) for variant in variants] + [_merge_spec(*variant) for variant in merges] + halves


def _split_spec(head_dim: int, itemsize: int, group: int, pdl: bool, half: str = "bf16") -> CompileSpec:
    dtype, config = {2: half, 4: "fp32"}[itemsize], _CONFIGS[head_dim, itemsize]
    strides = ("stride_qs", "stride_qh", "stride_half", "stride_page", "stride_head", "stride_token")
    signature = {"q_ptr": f"*{dtype}", "kv_ptr": f"*{dtype}", "table_ptr": "*i32", "kv_lens_ptr": "*i32"}
    signature |= {"acc_ptr": "*fp32", "max_ptr": "*fp32", "sum_ptr": "*fp32", "scale_log2": "fp32"}
    signature |= {name: "i32" for name in ("num_splits", "stride_table")} | {name: "i32" for name in strides}
    constexprs = {"GROUP": group, "HEAD_DIM": head_dim, "ROWS": BLOCK_H, "BLOCK": BLOCK_N, "PAGE": PAGE_SIZE}
    return CompileSpec(
        name=f"decode_attention_kernel/{dtype}-D{head_dim}-G{group}{'-pdl' if pdl else ''}",
        fn=decode_attention_kernel,
        signature=signature,
        constexprs=constexprs | _SPLITS | {"PDL": pdl},
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        streamed=True,
        aligned=strides,
    )


def _merge_spec(head_dim: int, pdl: bool, dtype: str = "bf16") -> CompileSpec:
    pointers = {name: "*fp32" for name in ("acc_ptr", "max_ptr", "sum_ptr")}
    return CompileSpec(
        name=f"merge_splits_kernel/{dtype}-D{head_dim}{'-pdl' if pdl else ''}",
        fn=merge_splits_kernel,
        signature=pointers | {"kv_lens_ptr": "*i32", "out_ptr": f"*{dtype}", "num_splits": "i32"},
        constexprs={"HEAD_DIM": head_dim, "BLOCK": MERGE_SPLITS, "PDL": pdl} | _SPLITS,
        num_warps=1,
        num_stages=1,
        streamed=True,
        max_registers=160,
    )
