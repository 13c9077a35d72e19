"""Prefill attention by other libraries: what they are handed, and that the choice is checked, reported, never silent.

flash-attn and xformers run on a GPU only, so here stand-ins compute what their documentation says of the very arguments
they would get. Where xformers is installed, its own masks stand in for ours.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from typing import Any

import pytest
import torch
from kernel_harness import DEVICE

from tte_kernels.decode_attention.cases import ATTENTION_TOLERANCE, pages_of, table_of
from tte_kernels.extend_attention.reference import extend_attention as reference
from tte_runtime.config import EngineConfig
from tte_runtime.errors import MissingExtraError, OptionError
from tte_runtime.ops import StepLayout, select_ops
from tte_runtime.ops.prefill import FlashAttention, Xformers, load_prefill

HEADS = {"head_dim": 32, "group": 3}
SPANS = ((0, 5), (40, 1), (16, 33), (3, 14))  # (prefix, new tokens)


def step(heads: int, kv_heads: int, dim: int) -> tuple[torch.Tensor, torch.Tensor, StepLayout]:
    """Queries, pages with NaN in every slot that no sequence owns, and the layout of SPANS."""
    new, lengths = [n for _, n in SPANS], [prefix + n for prefix, n in SPANS]
    table, num_pages = table_of(lengths, 1, DEVICE)
    pages = pages_of(table, num_pages, lengths, kv_heads, dim, 2, DEVICE, torch.float32)
    q = torch.randn(sum(new), heads, dim, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    starts = torch.tensor([0, *new]).cumsum(0).to(DEVICE, torch.int32)
    lens = torch.tensor(lengths, dtype=torch.int32, device=DEVICE)
    slots = torch.zeros(sum(new), dtype=torch.int64, device=DEVICE)  # not read: keys and values are written already
    return q, pages, StepLayout(False, slots, table, starts, lens, tuple(new), tuple(lengths))


def check(attend: Any, heads: int, kv_heads: int, dim: int) -> None:
    q, pages, layout = step(heads, kv_heads, dim)
    scale, limit = dim**-0.5, ATTENTION_TOLERANCE[torch.float32]
    tables = (layout.page_table, layout.cu_seqlens, layout.kv_lens)
    want = reference(q, pages, *tables, scale=scale, max_query_len=max(layout.query_lens_host))
    for _ in range(2):  # the second layer of a step
        got = attend(q, pages, layout, scale)
        torch.testing.assert_close(got, want, atol=limit.atol, rtol=limit.rtol)


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float,
    causal: bool,
) -> torch.Tensor:
    """What flash-attn's README says since 2.1: heads of q are grouped over those of k, causal is bottom-right."""
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32 and causal
    assert all(tensor.stride(-1) == 1 for tensor in (q, k, v))
    assert cu_seqlens_q.diff().max() == max_seqlen_q and cu_seqlens_k.diff().max() == max_seqlen_k
    bounds = zip(cu_seqlens_q[:-1], cu_seqlens_q[1:], cu_seqlens_k[:-1], cu_seqlens_k[1:], strict=True)
    return torch.cat([_bottom_right(q[a:b], k[c:d], v[c:d], softmax_scale) for a, b, c, d in bounds])


def _bottom_right(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    hidden = ~torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device).tril(len(k) - len(q))
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)


class BottomRightMask:
    """Of xformers' mask, what we use: blocks of (queries, keys), causal from each block's bottom right corner."""

    def __init__(self, q_seqlen: list[int], kv_seqlen: list[int]) -> None:
        self.lengths = q_seqlen, kv_seqlen

    @classmethod
    def from_seqlens(cls, q_seqlen: list[int], kv_seqlen: list[int], *, device: torch.device) -> BottomRightMask:
        assert all(type(n) is int for n in (*q_seqlen, *kv_seqlen))
        return cls(q_seqlen, kv_seqlen)

    def materialize(self, shape: tuple[int, ...], device: Any = None) -> torch.Tensor:
        mask = torch.full(shape[-2:], -torch.inf, device=device)
        row = column = 0
        for new, length in zip(*self.lengths, strict=True):
            seen = torch.ones(new, length, dtype=torch.bool, device=device).tril(length - new)
            mask[row : row + new, column : column + length][seen] = 0.0
            row, column = row + new, column + length
        return mask.expand(shape)


def memory_efficient_attention_forward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_bias: Any, *, scale: float
) -> torch.Tensor:
    """xformers' documented formula for [B, M, G, H, K] inputs: softmax(q k^T * scale + bias) v."""
    assert query.shape[2:] == key.shape[2:] == value.shape[2:], "heads of keys are expanded, not broadcast"
    scores = torch.einsum("bqghd,bkghd->bghqk", query, key) * scale
    bias = attn_bias.materialize((1, 1, query.shape[1], key.shape[1])).to(scores.device)
    return torch.einsum("bghqk,bkghd->bqghd", (scores + bias[:, :, None]).softmax(-1), value)


def fake_xformers(monkeypatch: pytest.MonkeyPatch, mask: Any) -> None:
    fmha = types.ModuleType("xformers.ops.fmha")
    fmha.memory_efficient_attention_forward = memory_efficient_attention_forward  # type: ignore[attr-defined]
    fmha.attn_bias = types.SimpleNamespace(BlockDiagonalCausalFromBottomRightMask=mask)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "xformers.ops.fmha", fmha)
    monkeypatch.setitem(sys.modules, "xformers.ops", types.ModuleType("xformers.ops"))
    monkeypatch.setitem(sys.modules, "xformers", types.ModuleType("xformers"))


@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(6, 2, 32), (4, 4, 64), (7, 1, 128)])
def test_what_each_library_is_handed(heads: int, kv_heads: int, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("flash_attn")
    module.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    fake_xformers(monkeypatch, BottomRightMask)
    for attend in (load_prefill("sdpa", "cpu", torch.float32), FlashAttention(), Xformers()):
        check(attend, heads, kv_heads, dim)


@pytest.mark.skipif(importlib.util.find_spec("xformers") is None, reason="needs xformers")
def test_xformers_own_masks_are_what_we_take_them_for(monkeypatch: pytest.MonkeyPatch) -> None:
    fmha = importlib.import_module("xformers.ops.fmha")
    own = fmha.attn_bias.BlockDiagonalCausalFromBottomRightMask
    new, lengths = [n for _, n in SPANS], [prefix + n for prefix, n in SPANS]
    shape = (1, 1, sum(new), sum(lengths))
    ours = BottomRightMask.from_seqlens(new, lengths, device=torch.device("cpu")).materialize(shape)
    assert torch.equal(own.from_seqlens(new, lengths).materialize(shape), ours)
    fake_xformers(monkeypatch, own)
    check(Xformers(), 6, 2, 32)


@pytest.mark.parametrize("name", ["flash-attn", "xformers"])
def test_a_choice_that_cannot_run_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = {"flash-attn": "flash_attn", "xformers": "xformers"}[name]
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None if asked == module else real(asked))
    config = EngineConfig(attention=name, device="cpu").resolve(model_context=64, bytes_per_token=64)
    with pytest.raises(MissingExtraError, match=f"Run: pip install {name}"):
        select_ops(config, **HEADS)
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: object())
    with pytest.raises(OptionError, match='needs a GPU, got device="cpu"'):
        select_ops(config, **HEADS)
    with pytest.raises(OptionError, match=r"needs float16 or bfloat16, got torch\.float32"):
        load_prefill(name, "cuda", torch.float32)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(OptionError, match=r"compute capability 8\.0, got 7\.5"):
        load_prefill(name, "cuda", torch.bfloat16)


def test_the_choice_is_resolved_reported_and_part_of_the_fingerprint() -> None:
    def resolved(**options: Any) -> EngineConfig:
        return EngineConfig(device="cpu", **options).resolve(model_context=64, bytes_per_token=64)

    for kernels, own in (("torch", "sdpa"), ("triton", "triton")):
        default, named = resolved(kernels=kernels), resolved(kernels=kernels, attention=own)
        assert default.attention == own and f"attention={own} " in default.describe()
        assert default.precision == named.precision == "float32", "the backend's own is no news"
    other = resolved(kernels="triton", attention="sdpa")
    assert other.precision == "float32, attention sdpa" and "attention=sdpa " in other.describe()
    with pytest.raises(OptionError, match='attention="triton" is part of kernels="triton"'):
        resolved(kernels="torch", attention="triton")
    with pytest.raises(OptionError, match="Known: auto, triton, sdpa, flash-attn, xformers"):
        EngineConfig(attention="flash")


def test_heads_and_launches_that_kernels_cannot_have_are_refused() -> None:
    config = EngineConfig(device="cpu", kernels="triton").resolve(model_context=64, bytes_per_token=64)
    for heads in ({"head_dim": 80, "group": 1}, {"head_dim": 64, "group": 17}):
        with pytest.raises(OptionError, match="needs a head dim of 32, 64, 128 and 1 to 16 query heads a kv head, got"):
            select_ops(config, **heads)
    with pytest.raises(OptionError, match=r"pdl=True needs our kernels on an NVIDIA GPU of compute capability 9\.0"):
        EngineConfig(device="cpu", pdl=True).resolve(model_context=64, bytes_per_token=64)
