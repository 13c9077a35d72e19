"""Think-then-embed in plain transformers: what the runtime must equal, and what it is measured against.

Two passes, as published code does it: `generate()` writes the trace, then prompt + trace are encoded again from the
start. One pass, as a careful user of transformers could do it: the states and the cache of `generate()` are kept,
and only the tokens that were never fed go through the model once more. Prompts and pixels come from the same
renderer as the runtime's, so that a difference is a difference of engines; positions are transformers' own.
Knows no pages, batches or schedules: one request at a time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from tte_runtime.engine.request import EngineRequest
from tte_runtime.errors import OptionError
from tte_runtime.heads.reference import HeadModule, load_reference_head
from tte_runtime.inputs.items import parse_item
from tte_runtime.inputs.prompt import PromptRenderer
from tte_runtime.models.checkpoint import Checkpoint, find_folder, read_config
from tte_runtime.models.stock import load_stock
from tte_runtime.recipes.base import Recipe
from tte_runtime.recipes.registry import choose_recipe, read_tte_json
from tte_runtime.types import Role, Think


@dataclass(frozen=True, eq=False)
class PlainResult:
    """One request embedded by plain transformers.

    Attributes:
        vector: float32 [E], L2-normalised.
        trace: text without the stop token. trace_ids: the sampled ids.
        computed: tokens that went through the decoder, second pass included. head: states the head read.
        milliseconds: from the item to the vector, preprocessing included.
    """

    vector: NDArray[np.float32]
    trace: str
    trace_ids: tuple[int, ...]
    computed: int
    head: int
    milliseconds: float


class PlainEmbedder:
    """A checkpoint in plain transformers, with sdpa attention.

    Args:
        model: in eval mode.
        renderer: prompts and pixels.
        head: the TTE_u head, or `None`. tap_layer: the states it reads.
    """

    def __init__(self, model: Any, renderer: PromptRenderer, head: HeadModule | None, tap_layer: int | None) -> None:
        self.model = model
        self.renderer = renderer
        self.head = head
        self.tap_layer = tap_layer

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        recipe: str | Recipe | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> PlainEmbedder:
        """Load a checkpoint; arguments and errors as for `Embedder.from_pretrained`."""
        checkpoint = Checkpoint.of(find_folder(name_or_path))
        folder, config = checkpoint.folder, read_config(checkpoint)
        chosen = choose_recipe(folder, recipe)
        model = load_stock(checkpoint, config, dtype)
        head, tap_layer = None, None
        if chosen.readout == "head":
            entry = (read_tte_json(folder) or {})["head"]
            tap_layer = entry["tap_layer"]
            head = load_reference_head(folder, model.config, entry).to(device, dtype)
        renderer = PromptRenderer(checkpoint.processors, chosen, config)
        return cls(model.to(device).eval(), renderer, head, tap_layer)

    @torch.inference_mode()
    def embed(
        self, item: Any, *, role: Role, think: Think | bool | None = None, passes: Literal["two", "one"] = "two"
    ) -> PlainResult:
        """Embed one request greedily.

        Args:
            item, role, think: as for `Embedder.embed`; sampling and deadlines are not offered here.
            passes: "two" encodes prompt + trace again; "one" keeps the cache and the states of `generate()`.

        Raises:
            OptionError: `think` asks for sampling or a deadline. Else as `Embedder.embed`.
        """
        started = time.perf_counter()
        recipe = self.renderer.recipe
        thinking = recipe.roles[role].think if think is None else bool(think)
        options = think if isinstance(think, Think) else Think()
        if options.temperature > 0 or options.deadline_ms is not None:
            raise OptionError("the plain baseline is greedy and has no deadline; use Think(max_tokens=...).")
        request = self.renderer.render(
            parse_item(item),
            role,
            options if thinking else None,
            priority="interactive",
            normalize=True,
            arrival=started,
        )
        inputs = self._inputs(request)
        trace, kept, cache = self._generate(request, inputs, keep=passes == "one")
        ids = torch.tensor([[*request.prompt_ids, *trace, *_tail(request, trace)]], device=self.model.device)
        states, computed = self._states(request, inputs, ids, kept, cache)
        vector = self._read(states, self._positions(inputs, ids), _place(request, trace))
        return PlainResult(
            vector=vector.float().cpu().numpy(),
            trace=self.renderer.tokenizer.decode([t for t in trace if t not in request.stop_ids]),
            trace_ids=tuple(trace),
            computed=computed,
            head=ids.shape[1] if self.head is not None else 0,
            milliseconds=1000 * (time.perf_counter() - started),
        )

    def _inputs(self, request: EngineRequest) -> dict[str, torch.Tensor]:
        device = self.model.device
        ids = torch.tensor([request.prompt_ids], device=device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        for is_video, pixels, grid in ((False, "pixel_values", "image"), (True, "pixel_values_videos", "video")):
            patches = [span.handle for span in request.media if span.handle.is_video == is_video]
            if patches:
                inputs[pixels] = torch.cat([one.pixels for one in patches]).to(device)
                inputs[f"{grid}_grid_thw"] = torch.tensor([one.grid for one in patches], device=device)
                if is_video and self._per_second:
                    seconds = [one.interval / self._per_second for one in patches]
                    inputs["second_per_grid_ts"] = torch.tensor(seconds, device=device)
        if request.media:
            inputs["mm_token_type_ids"] = self._kinds(ids)
        return inputs

    @property
    def _per_second(self) -> float | None:
        """Positions of the time axis in a second, where the family counts so (Qwen2.5-VL)."""
        return getattr(self.model.config.vision_config, "tokens_per_second", None)

    def _kinds(self, ids: torch.Tensor) -> torch.Tensor:
        """transformers' `mm_token_type_ids`: 1 for a picture's placeholder, 2 for a video's, 0 for text."""
        config = self.model.config
        return (ids == config.image_token_id).int() + 2 * (ids == config.video_token_id).int()

    def _generate(
        self, request: EngineRequest, inputs: dict[str, torch.Tensor], *, keep: bool
    ) -> tuple[list[int], torch.Tensor | None, Any]:
        """The trace; with `keep` also the states of all fed tokens, [1, n, C], and the cache that holds them."""
        if request.max_trace_tokens == 0:
            return [], None, None
        output = self.model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=request.max_trace_tokens,
            eos_token_id=sorted(request.stop_ids),
            pad_token_id=0,
            return_dict_in_generate=True,
            output_hidden_states=keep,
        )
        trace = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        if not keep:
            return trace, None, None
        states = torch.cat([step[self._layer] for step in output.hidden_states], dim=1)
        return trace, states, output.past_key_values

    @property
    def _layer(self) -> int:
        """Index into transformers' tuple of hidden states: entry i stands before layer i, the last is normed."""
        return -1 if self.tap_layer is None else self.tap_layer

    def _states(
        self,
        request: EngineRequest,
        inputs: dict[str, torch.Tensor],
        ids: torch.Tensor,
        kept: torch.Tensor | None,
        cache: Any,
    ) -> tuple[torch.Tensor, int]:
        """The states that the readout reads, [1, n, C], and how many tokens were computed for the request."""
        if kept is None or cache is None:  # the second pass: everything again, the vision tower included
            media = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
            if media:
                media["mm_token_type_ids"] = self._kinds(ids)
            if self.renderer.recipe.media.positions == "text":
                media["position_ids"] = self._positions(inputs, ids)
            self.model.model.rope_deltas = None  # what `generate` left; text models keep none and never read it
            output = self.model.model(
                input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True, use_cache=False, **media
            )
            generated = ids.shape[1] - len(request.prompt_ids) - len(request.suffix_ids)
            first = len(request.prompt_ids) + max(0, generated - 1) if request.max_trace_tokens else 0
            return output.hidden_states[self._layer], first + ids.shape[1]
        rest = ids[:, kept.shape[1] :]
        positions = self._positions(inputs, ids)[:, :, kept.shape[1] :]
        if self.renderer.media is None:
            positions = positions[0]  # text models count on one axis
        output = self.model.get_decoder()(
            inputs_embeds=self.model.get_input_embeddings()(rest),
            position_ids=positions,
            past_key_values=cache,
            output_hidden_states=True,
            use_cache=True,
        )
        return torch.cat([kept, output.hidden_states[self._layer]], dim=1), ids.shape[1]

    def _positions(self, inputs: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
        """transformers' own M-RoPE positions, int64 [3, 1, n]; those of text where the recipe says so."""
        grids = {k: v for k, v in inputs.items() if k.endswith("_grid_thw") or k == "second_per_grid_ts"}
        if not grids or self.renderer.recipe.media.positions == "text":
            return torch.arange(ids.shape[1], device=ids.device).expand(3, 1, -1)
        positions, _ = self.model.model.get_rope_index(ids, mm_token_type_ids=self._kinds(ids), **grids)
        return positions

    def _read(self, states: torch.Tensor, positions: torch.Tensor, place: int) -> torch.Tensor:
        """[E], L2-normalised; `place` is the state of the readouts that read one."""
        if self.head is not None:
            last = torch.tensor([states.shape[1] - 1], device=states.device)
            return self.head(states, positions, last)[0]
        rows = states[0].mean(0) if self.renderer.recipe.readout == "mean" else states[0, place]
        return F.normalize(rows.float(), dim=-1)


def _tail(request: EngineRequest, trace: list[int]) -> tuple[int, ...]:
    """The tokens that are forced after a trace."""
    if request.max_trace_tokens == 0:
        return request.suffix_ids
    whole = request.readout.marker_id in trace if request.readout.kind == "generated_marker" else False
    stopped = bool(trace) and trace[-1] in request.stop_ids and request.readout.kind != "generated_marker"
    return (() if whole or stopped else request.close_ids) + request.suffix_ids


def _place(request: EngineRequest, trace: list[int]) -> int:
    """The index of the one state that is read: the prompt's marker, the trace's last marker, or the last token."""
    readout = request.readout
    if readout.kind == "marker":
        assert readout.position is not None
        return readout.position
    if readout.kind == "generated_marker" and readout.marker_id in trace:
        return len(request.prompt_ids) + len(trace) - 1 - trace[::-1].index(readout.marker_id)
    return -1
