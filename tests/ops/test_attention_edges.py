"""What the parity cases cannot show of the attention kernels: chunks, shared pages, page numbers, width of the table.

Equality is of bits throughout. Does not know models or schedulers.
"""

from __future__ import annotations

import pytest
import torch
from kernel_harness import DEVICE

from tte_kernels.decode_attention import decode_attention
from tte_kernels.decode_attention import kernel as decode_kernel
from tte_kernels.decode_attention.cases import ATTENTION_TOLERANCE
from tte_kernels.decode_attention.kernel import max_splits, split_programs
from tte_kernels.extend_attention import extend_attention
from tte_kernels.extend_attention import launch as launch_extend
from tte_kernels.rope_write_kv import rope_write_kv

HEADS, KV_HEADS, DIM = 6, 2, 32
SCALE = DIM**-0.5


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


def pages_and_queries(
    tokens: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(q [tokens, H, D], kv_pages, page_table [1, P]) of one sequence, its pages in shuffled order."""
    generator = torch.Generator().manual_seed(tokens)
    count = -(-tokens // 16)
    q = torch.randn(tokens, HEADS, DIM, generator=generator).to(DEVICE, dtype)
    pages = torch.randn(2, count + 1, KV_HEADS, 16, DIM, generator=generator).to(DEVICE, dtype)
    table = (torch.randperm(count, generator=generator) + 1).to(DEVICE, torch.int32)[None]
    return q, pages, table


def extend(
    q: torch.Tensor, pages: torch.Tensor, table: torch.Tensor, prefix: int, new: int, **options: int
) -> torch.Tensor:
    """The chunk of `new` tokens after `prefix`, alone."""
    chunk = q[prefix : prefix + new]
    sizes = {"max_query_len": new} | options
    return extend_attention(chunk, pages, table, ints(0, new), ints(prefix + new), scale=SCALE, **sizes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("sizes", [(1, 7, 92), (63, 1, 36), (99, 1)])
def test_chunking_a_prompt_leaves_no_mark(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    q, pages, table = pages_and_queries(100, dtype)
    whole = extend(q, pages, table, 0, 100)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    chunks = [extend(q, pages, table, start, size) for start, size in zip(starts, sizes, strict=True)]
    assert torch.equal(torch.cat(chunks), whole)


def test_page_numbers_do_not_matter() -> None:
    q, pages, table = pages_and_queries(70)
    order = torch.randperm(pages.shape[1], generator=torch.Generator().manual_seed(1)).to(DEVICE)
    moved, moved_table = torch.empty_like(pages), order[table.long()].int()
    moved[:, order] = pages
    assert torch.equal(extend(q, moved, moved_table, 0, 70), extend(q, pages, table, 0, 70))


def test_traces_that_share_the_pages_of_a_prefix_are_as_alone() -> None:
    q, pages, table = pages_and_queries(80)
    shared = torch.cat((table[:, :3], table[:, 4:5]), 1)  # 48 tokens in common, then another page
    tables = torch.cat((table[:, :4], shared))
    together = decode_attention(q[:2], pages, tables, ints(60, 64), scale=SCALE)
    for row, length in enumerate((60, 64)):
        alone = decode_attention(q[row : row + 1], pages, tables[row : row + 1], ints(length), scale=SCALE)
        assert torch.equal(together[row : row + 1], alone)


def test_a_wider_page_table_changes_nothing_and_its_tail_is_not_read() -> None:
    q, pages, table = pages_and_queries(130)
    tail = torch.full((1, 90), 10**6, dtype=torch.int32, device=DEVICE)  # pages that do not exist
    wide = torch.cat((table, tail), 1)
    want = decode_attention(q[:1], pages, table, ints(130), scale=SCALE)
    assert torch.equal(decode_attention(q[:1], pages, wide, ints(130), scale=SCALE), want)
    assert torch.equal(extend(q, pages, wide, 100, 30), extend(q, pages, table, 100, 30))


def strided_copy(pages: torch.Tensor) -> torch.Tensor:
    """The same pages as a slice of a wider and longer tensor, with every stride but the last another."""
    halves, count, heads, slots, dim = pages.shape
    wide = torch.full((halves, count + 1, heads + 1, slots + 3, dim + 16), float("nan"), device=DEVICE)
    view = wide[:, 1:, :heads, 2 : 2 + slots, 8 : 8 + dim]
    return view.copy_(pages)


def test_pages_may_be_strided() -> None:
    q, pages, table = pages_and_queries(70)
    wide = strided_copy(pages)
    assert not wide.is_contiguous()
    assert torch.equal(extend(q, wide, table, 30, 40), extend(q, pages, table, 30, 40))
    want = decode_attention(q[:1], pages, table, ints(70), scale=SCALE)
    assert torch.equal(decode_attention(q[:1], wide, table, ints(70), scale=SCALE), want)
    qkv = torch.randn(7, (HEADS + 2 * KV_HEADS) * DIM, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    angles, slots = qkv[:, : DIM // 2].contiguous(), torch.arange(40, 47, device=DEVICE)
    for target in (pages, wide):
        rope_write_kv(qkv, angles.cos(), angles.sin(), target, slots, num_heads=HEADS)
    assert torch.equal(wide, pages)


def test_who_computes_a_split_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    q, pages, table = pages_and_queries(300)
    arguments = (q[:3], pages, table.expand(3, -1).contiguous(), ints(300, 65, 0))
    want = decode_attention(*arguments, scale=SCALE)
    for programs in (1, 2, 3):
        monkeypatch.setattr(decode_kernel, "split_programs", lambda *_, programs=programs: programs)
        assert torch.equal(decode_attention(*arguments, scale=SCALE), want)


def test_a_table_for_the_longest_context_launches_no_crowd() -> None:
    most = max_splits(32_768)
    assert split_programs(most, 1) == most, "one long row has the card to itself"
    assert split_programs(most, 64 * 4) == 16
    assert split_programs(3, 64 * 4) == 3


def test_a_generous_max_query_len_changes_nothing() -> None:
    q, pages, table = pages_and_queries(40)
    arguments = (q, pages, table, ints(0, 40), ints(40))
    want = launch_extend(*arguments, scale=SCALE, max_query_len=40)
    assert torch.equal(launch_extend(*arguments, scale=SCALE, max_query_len=300), want)


def test_both_paths_agree_on_a_token() -> None:
    q, pages, table = pages_and_queries(77)
    by_extend = extend(q, pages, table, 76, 1)
    by_decode = decode_attention(q[76:], pages, table, ints(77), scale=SCALE)
    limit = ATTENTION_TOLERANCE[torch.float32]
    torch.testing.assert_close(by_extend, by_decode, atol=limit.atol, rtol=limit.rtol)


def test_scores_of_any_size_do_not_overflow() -> None:
    q, pages, table = pages_and_queries(70)
    out = decode_attention(q[:1] * 1e4, pages, table, ints(70), scale=SCALE)
    keys = pages[0, table[0].long()].transpose(0, 1).flatten(1, 2)[0, :70]
    best = (keys @ q[0, 0]).argmax().item()
    value = pages[1, table[0, best // 16], 0, best % 16]
    torch.testing.assert_close(out[0, 0], value)  # the softmax is one-hot


def test_every_length_has_room_for_its_splits() -> None:
    def splits(kv_len: int) -> int:
        return -(-kv_len // (64 if kv_len <= 1024 else 128 if kv_len <= 4096 else 256))

    most = 0
    for capacity in range(1, 9000):
        most = max(most, splits(capacity))
        assert max_splits(capacity) >= most, capacity
