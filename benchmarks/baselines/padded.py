"""Plain transformers on a batch: padded on the left to write traces, then read in a second pass or in the same one.

What a careful user of transformers can write. Two passes: `generate()`, then everything again, padded on the right.
One pass: the cache of `generate()` is kept, and one more forward feeds what it has not been fed. Optionally a static
cache whose decode step `generate()` compiles. Prompts and pixels are the runtime's own (`PlainEmbedder`'s renderer).
Of readouts it knows "last" and "head".
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import CompileConfig, LogitsProcessor, LogitsProcessorList, StaticCache

from tte_runtime.engine.request import EngineRequest
from tte_runtime.evaluation.plain import PlainEmbedder, PlainResult
from tte_runtime.inputs.items import parse_item
from tte_runtime.types import Role, Think

__all__ = ["PaddedTransformers"]


class GivenTraces(LogitsProcessor):
    """Makes greedy decoding follow given traces, so that the path is that of `generate()` and the tokens are not."""

    def __init__(self, traces: torch.Tensor, prompt_len: int) -> None:
        self.traces, self.prompt_len = traces, prompt_len

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """-inf everywhere but at the token that comes next."""
        wanted = self.traces[:, input_ids.shape[1] - self.prompt_len, None]
        return torch.full_like(scores, -torch.inf).scatter(1, wanted, 0.0)


@dataclass(frozen=True)
class Prompts:
    """A batch of rendered prompts: ids and mask int64 [B, P], padded on the left, and their media."""

    requests: tuple[EngineRequest, ...]
    ids: torch.Tensor
    mask: torch.Tensor
    media: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Written:
    """What `generate()` left: traces, steps taken, its cache, and tapped states [B, P + steps - 1, C] if kept."""

    traces: list[tuple[int, ...]]
    steps: int
    cache: Any
    states: torch.Tensor | None


class PaddedTransformers:
    """One way of running plain transformers.

    Args:
        plain: model, renderer and head.
        passes: "two" or "one".
        static: a preallocated cache, with which `generate()` compiles its decode step.
        attention: transformers' name of the attention implementation.

    Attributes:
        spent: milliseconds of the last batch by stage: preprocess, generate, second pass (or last forward), readout.
    """

    def __init__(
        self, plain: PlainEmbedder, *, passes: Literal["two", "one"], static: bool = False, attention: str = "sdpa"
    ) -> None:
        assert plain.renderer.recipe.readout in ("last", "head")
        self.plain, self.model, self.passes, self.static = plain, plain.model, passes, static
        self.attention = attention
        self.spent: dict[str, float] = {}
        self._caches: dict[tuple[int, int], StaticCache] = {}

    @torch.inference_mode()
    def embed(
        self, items: Sequence[Any], role: Role, think: Think | None, traces: Sequence[tuple[int, ...]] | None = None
    ) -> list[PlainResult]:
        """Embed a batch greedily; with `traces` the tokens written are those, through the same path."""
        ticks = [time.perf_counter()]
        if self.model.config._attn_implementation != self.attention:
            self.model.set_attn_implementation(self.attention)
        prompts = self._prompts(items, role, think)
        ticks.append(self._now())
        written = self._write(prompts, traces)
        rows = [self._row(request, trace) for request, trace in zip(prompts.requests, written.traces, strict=True)]
        ticks.append(self._now())
        if self.passes == "two" or not written.steps:
            states, positions, last, computed = self._again(prompts, rows)
            computed += prompts.ids.shape[1] + written.steps - 1 if written.steps else 0
        else:
            states, positions, last, computed = self._go_on(prompts, written, rows)
        ticks.append(self._now())
        vectors = self._read(states, positions, last).float().cpu().numpy()
        ticks.append(self._now())
        elapsed = 1000 * (ticks[-1] - ticks[0])
        stages = ("preprocess", "generate", "second pass" if self.passes == "two" else "last forward", "readout")
        self.spent = {stage: 1000 * (b - a) for stage, (a, b) in zip(stages, pairwise(ticks), strict=True)}
        decode = self.plain.renderer.tokenizer.decode
        head = max(len(row) for row in rows) if self.plain.head is not None else 0
        return [
            PlainResult(vector, decode(trace), trace, computed, head, elapsed)
            for vector, trace in zip(vectors, written.traces, strict=True)
        ]

    def _now(self) -> float:
        """The clock once the device has done what it was told."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter()

    def _prompts(self, items: Sequence[Any], role: Role, think: Think | None) -> Prompts:
        options: Any = {"priority": "interactive", "normalize": True, "arrival": 0.0}
        requests = tuple(self.plain.renderer.render(parse_item(item), role, think, **options) for item in items)
        ids = self._padded([request.prompt_ids for request in requests], side="left")
        mask = self._padded([(1,) * len(request.prompt_ids) for request in requests], side="left")
        media, handles = {}, [span.handle for request in requests for span in request.media]
        if handles:
            media["pixel_values"] = torch.cat([handle.pixels for handle in handles]).to(ids.device)
            media["image_grid_thw"] = torch.tensor([handle.grid for handle in handles], device=ids.device)
        return Prompts(requests, ids, mask, media)

    def _padded(self, rows: Sequence[Sequence[int]], side: Literal["left", "right"] = "right") -> torch.Tensor:
        tensors = [torch.tensor(row, dtype=torch.int64) for row in rows]
        return pad_sequence(tensors, batch_first=True, padding_side=side).to(self.model.device)

    def _kinds(self, ids: torch.Tensor) -> torch.Tensor:
        """1 where a token stands for a piece of a picture."""
        return (ids == self.model.config.image_token_id).int()

    def _write(self, prompts: Prompts, traces: Sequence[tuple[int, ...]] | None) -> Written:
        request = prompts.requests[0]
        limit = request.max_trace_tokens
        if limit == 0:
            return Written([()] * len(prompts.requests), 0, None, None)
        options: dict[str, Any] = {}
        if traces is not None:
            limit = max(len(trace) for trace in traces)
            follow = GivenTraces(self._padded(traces), prompts.ids.shape[1])
            options["logits_processor"] = LogitsProcessorList([follow])
        if self.static:
            options |= self._static(len(prompts.requests), prompts.ids.shape[1] + request.max_trace_tokens + 8)
        keep = self.passes == "one" and self.plain.head is not None
        output = self.model.generate(
            input_ids=prompts.ids,
            attention_mask=prompts.mask,
            **prompts.media,
            **({"mm_token_type_ids": self._kinds(prompts.ids)} if prompts.media else {}),
            do_sample=False,
            max_new_tokens=limit,
            eos_token_id=sorted(request.stop_ids),
            pad_token_id=0,
            return_dict_in_generate=True,
            output_hidden_states=keep,
            **options,
        )
        new = output.sequences[:, prompts.ids.shape[1] :].tolist()
        states = torch.cat([step[self._layer] for step in output.hidden_states], dim=1) if keep else None
        written = [_until_stop(row, request.stop_ids) for row in new] if traces is None else list(traces)
        return Written(written, len(new[0]), output.past_key_values, states)

    def _static(self, rows: int, length: int) -> dict[str, Any]:
        """A cache of this size, the same one whenever it is asked for, as compiled code wants it."""
        length = -(-length // 64) * 64
        cache = self._caches.get((rows, length))
        if cache is None:
            cache = self._caches[rows, length] = StaticCache(self.model.config, max_cache_len=length)
        cache.reset()
        compiling = CompileConfig()
        compiling._compile_all_devices = True  # by itself transformers compiles on accelerators only
        return {"past_key_values": cache, "compile_config": compiling}

    @property
    def _layer(self) -> int:
        return -1 if self.plain.tap_layer is None else self.plain.tap_layer

    def _row(self, request: EngineRequest, trace: tuple[int, ...]) -> tuple[int, ...]:
        forced = request.max_trace_tokens > 0 and (not trace or trace[-1] not in request.stop_ids)
        return request.prompt_ids + trace + (request.close_ids if forced else ()) + request.suffix_ids

    def _again(self, prompts: Prompts, rows: list[tuple[int, ...]]) -> tuple[Any, ...]:
        """The second pass: states [B, n, C], positions, the index to read at, and tokens computed a row."""
        ids, mask = self._padded(rows), self._padded([(1,) * len(row) for row in rows])
        kinds = {"mm_token_type_ids": self._kinds(ids)} if prompts.media else {}
        self.model.model.rope_deltas = None
        tapped = self.plain.head is not None
        output = self.model.model(
            input_ids=ids, attention_mask=mask, output_hidden_states=tapped, use_cache=False, **prompts.media, **kinds
        )
        states = output.hidden_states[self._layer] if tapped else output.last_hidden_state
        return states, self._positions(prompts, ids, mask), mask.sum(1) - 1, ids.shape[1]

    def _go_on(self, prompts: Prompts, written: Written, rows: list[tuple[int, ...]]) -> tuple[Any, ...]:
        """One more forward over the kept cache, for the tokens of each row that were not fed; results as `_again`'s."""
        device, width = self.model.device, prompts.ids.shape[1]
        fed = torch.tensor([min(len(trace), written.steps - 1) for trace in written.traces], device=device)
        lengths = prompts.mask.sum(1) + fed
        rest = [row[int(length) :] for row, length in zip(rows, lengths, strict=True)]
        ids, new = self._padded(rest), self._padded([(1,) * len(row) for row in rest])
        between = (torch.arange(written.steps - 1, device=device) < fed[:, None]).long()
        deltas = self.model.model.rope_deltas if prompts.media else torch.zeros_like(lengths)[:, None]
        positions = lengths[:, None] + deltas + torch.arange(ids.shape[1], device=device)
        output = self.model.get_decoder()(
            inputs_embeds=self.model.get_input_embeddings()(ids),
            attention_mask=torch.cat([prompts.mask, between, new], dim=1),
            position_ids=positions.expand(3, -1, -1) if prompts.media else positions,
            past_key_values=written.cache,
            output_hidden_states=written.states is not None,
        )
        computed = width + written.steps - 1 + ids.shape[1]
        if written.states is None:
            return output.last_hidden_state, None, new.sum(1) - 1, computed
        held = torch.cat([prompts.mask, between], dim=1).bool()
        tail = output.hidden_states[self._layer]
        states = [
            torch.cat([kept[seen], more[: len(row)]])
            for kept, seen, more, row in zip(written.states, held, tail, rest, strict=True)
        ]
        full, mask = self._padded(rows), self._padded([(1,) * len(row) for row in rows])
        padded = pad_sequence(states, batch_first=True)
        return padded, self._positions(prompts, full, mask), mask.sum(1) - 1, computed

    def _positions(self, prompts: Prompts, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if not prompts.media:
            return torch.arange(ids.shape[1], device=ids.device).expand(3, ids.shape[0], -1)
        grid = prompts.media["image_grid_thw"]
        positions, _ = self.model.model.get_rope_index(ids, self._kinds(ids), grid, attention_mask=mask)
        return positions

    def _read(self, states: torch.Tensor, positions: torch.Tensor | None, last: torch.Tensor) -> torch.Tensor:
        """[B, E], L2-normalised."""
        if self.plain.head is not None:
            return self.plain.head(states, positions, last)
        return F.normalize(states[torch.arange(len(states), device=states.device), last].float(), dim=-1)


def _until_stop(row: list[int], stop: frozenset[int]) -> tuple[int, ...]:
    for index, token in enumerate(row):
        if token in stop:
            return tuple(row[: index + 1])
    return tuple(row)
