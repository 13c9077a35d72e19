"""How the tokens of a step lie. Made by the engine's runner, read by every backend; knows no op."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from tte_runtime.config import PAGE_SIZE
from tte_runtime.ops.transfer import to_device


@dataclass(frozen=True)
class StepLayout:
    """How the T new tokens of a step lie: which sequence each belongs to and where its pages are.

    A decode step has one token a row, so S = T. The host keeps its own copy of the lengths, so that nothing waits.

    Attributes:
        decode: every sequence has one new token and takes the decode path.
        slots: int64 [T], page * 16 + offset of every new token.
        page_table: int32 [S, P], pages of every sequence in order, padded with the scratch page 0.
        cu_seqlens: int32 [S + 1], where every sequence's new tokens begin.
        kv_lens: int32 [S], tokens of every sequence once this step's are written.
        query_lens_host, kv_lens_host: the same lengths as Python integers.
    """

    decode: bool
    slots: torch.Tensor
    page_table: torch.Tensor
    cu_seqlens: torch.Tensor
    kv_lens: torch.Tensor
    query_lens_host: tuple[int, ...]
    kv_lens_host: tuple[int, ...]

    @classmethod
    def one_token(cls) -> StepLayout:
        """A decode step on a CPU of one row, the first token of page 1, for calls that only have to be compiled."""
        one = torch.ones(1, dtype=torch.int32)
        starts = torch.tensor([0, 1], dtype=torch.int32)
        return cls(True, one.long() * PAGE_SIZE, one[None], starts, one, (1,), (1,))

    # What TorchOps needs in every layer, made once a step.

    @cached_property
    def page_and_offset(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Slots as int64 [T] pages and offsets."""
        return self.slots // PAGE_SIZE, self.slots % PAGE_SIZE

    @cached_property
    def single(self) -> tuple[int, int, int] | None:
        """Of a decode step of one row on a CPU, where asking waits for nothing: its page, offset and tokens seen.

        From the tensors, because a captured step's host lengths are only bounds.
        """
        if not self.decode or self.slots.shape[0] != 1 or self.slots.device.type != "cpu":
            return None
        page, offset = divmod(int(self.slots), PAGE_SIZE)
        return page, offset, int(self.kv_lens)

    @cached_property
    def masks(self) -> tuple[torch.Tensor, ...]:
        """Of a prefill step: what the new tokens of every sequence see, bool [t, n]; they are its last ones."""
        return tuple(
            torch.ones(query_len, kv_len, dtype=torch.bool, device=self.slots.device).tril(kv_len - query_len)
            for query_len, kv_len in zip(self.query_lens_host, self.kv_lens_host, strict=True)
        )

    @cached_property
    def seen(self) -> torch.Tensor:
        """Of a decode step: the tokens that each row sees of its pages, bool [S, 1, 1, P * 16]."""
        tokens = torch.arange(self._width * PAGE_SIZE, device=self.kv_lens.device)
        return (tokens < self.kv_lens[:, None])[:, None, None]

    def cells(self, num_pages: int, num_kv_heads: int) -> torch.Tensor:
        """Of a decode step: where the keys and values of its rows lie, int64 [2 * S * K * P * 16].

        They count vectors [D] of a layer's pool, [2, num_pages, K, 16, D]. Slots beyond a row's length may hold NaN,
        which no mask stops (0 * NaN is NaN): its last token is read in their stead.
        """
        if (num_pages, num_kv_heads) not in self._cells:
            device = self.page_table.device
            tokens = torch.arange(self._width * PAGE_SIZE, device=device)
            tokens = torch.minimum(tokens, (self.kv_lens[:, None] - 1).clamp(min=0).long())
            pages = self.page_table.long().gather(1, tokens // PAGE_SIZE)
            pool = torch.arange(2, device=device)[:, None, None, None] * num_pages
            heads = (pool + pages[:, None]) * num_kv_heads + torch.arange(num_kv_heads, device=device)[:, None]
            self._cells[num_pages, num_kv_heads] = (heads * PAGE_SIZE + (tokens % PAGE_SIZE)[:, None]).flatten()
        return self._cells[num_pages, num_kv_heads]

    @cached_property
    def _cells(self) -> dict[tuple[int, int], torch.Tensor]:
        return {}

    @cached_property
    def _width(self) -> int:
        """Pages of the longest sequence that hold anything."""
        return -(-max(self.kv_lens_host) // PAGE_SIZE)

    # What prefill attention of other libraries needs, see prefill.py.

    @cached_property
    def cached_slots(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Page and offset, int64 [n] each, of every token of every sequence, one sequence after another."""
        device = self.page_table.device
        position = torch.cat([torch.arange(kv_len, device=device) for kv_len in self.kv_lens_host])
        lengths = to_device(self.kv_lens_host, torch.int64, device)
        sequences = torch.arange(len(self.kv_lens_host), device=device)
        owner = torch.repeat_interleave(sequences, lengths, output_size=sum(self.kv_lens_host))
        return self.page_table[owner, position // PAGE_SIZE].long(), position % PAGE_SIZE

    @cached_property
    def cu_kv_lens(self) -> torch.Tensor:
        """int32 [S + 1], where every sequence's tokens begin among those of `cached_slots`."""
        return to_device([0, *itertools.accumulate(self.kv_lens_host)], torch.int32, self.page_table.device)


@dataclass(frozen=True)
class Rotation:
    """Rotary angles of a step's T tokens: cos and sin, float32 [T, D/2], for the first and second halves of a head."""

    cos: torch.Tensor
    sin: torch.Tensor

    @cached_property
    def whole(self) -> tuple[torch.Tensor, torch.Tensor]:
        """[T, 1, D] each, so that x turned is x * cos + (x rolled by half) * sin; made once a step for TorchOps."""
        return (
            torch.cat((self.cos, self.cos), dim=-1)[:, None],
            torch.cat((-self.sin, self.sin), dim=-1)[:, None],
        )


@dataclass(frozen=True)
class Draw:
    """How S next tokens are drawn and what ends their traces, a tensor of S rows each, and what the host knows of them.

    Attributes:
        temperature: float32, 0 for greedy. seed, position, trace_index: int64, what the noise is a function of.
        stop_ids: int64 [S, N], what ends each row's trace; -1 for none.
        top_k: int64, 0 for all. top_p: float32, 1 for all.
        greedy: every temperature is 0. filtered: some row has a top_k or top_p.
    """

    temperature: torch.Tensor
    seed: torch.Tensor
    position: torch.Tensor
    trace_index: torch.Tensor
    stop_ids: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    greedy: bool
    filtered: bool

    @property
    def columns(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """What a draw from all tokens depends on, in the order of `tte_kernels.sample`."""
        return self.temperature, self.seed, self.position, self.trace_index, self.stop_ids


@dataclass(frozen=True)
class Pooling:
    """Which rows of varlen states become S vectors, and how each is finished; tensors on the states' device.

    Attributes:
        cu_seqlens: int32 [S + 1], the bounds of every vector's rows, of which there is at least one.
        dims: int32 [S], leading elements kept of each vector (Matryoshka); the others become zeros.
        normalize: bool [S], divide by the L2 norm of what is kept.
        mean: average the rows; else the last one is taken.
    """

    cu_seqlens: torch.Tensor
    dims: torch.Tensor
    normalize: torch.Tensor
    mean: bool = False

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        dims: Sequence[int],
        normalize: Sequence[bool],
        device: torch.device,
        *,
        mean: bool = False,
    ) -> Pooling:
        """From what the host knows of every vector."""
        return cls(
            cu_seqlens=to_device([0, *itertools.accumulate(lengths)], torch.int32, device),
            dims=to_device(dims, torch.int32, device),
            normalize=to_device(normalize, torch.bool, device),
            mean=mean,
        )
