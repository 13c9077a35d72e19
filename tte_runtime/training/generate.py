"""Greedy traces of a model in training, for many prompts at once: rows of equal length share a cache, so
nothing is padded.

A tool of training and of its checks; serving has the engine. Knows nothing of questions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache, Qwen2VLForConditionalGeneration

from tte_runtime.training.tokens import IGNORED, Encoder, TrainingSequence, pad

MAX_ROWS = 128


@torch.no_grad()
def greedy_traces(
    model: Qwen2VLForConditionalGeneration,
    prompts: list[tuple[list[int], Tensor | None]],
    encoder: Encoder,
    max_tokens: int,
) -> list[list[int]]:
    """The greedy trace of every prompt, stop token included where it came within `max_tokens`.

    Args:
        prompts: (token ids, features of the picture [n, C] or None).
    """
    traces: list[list[int]] = [[] for _ in prompts]
    by_length: dict[int, list[int]] = {}
    for index, (ids, _) in enumerate(prompts):
        by_length.setdefault(len(ids), []).append(index)
    for rows in by_length.values():
        for start in range(0, len(rows), MAX_ROWS):
            chosen = rows[start : start + MAX_ROWS]
            for index, trace in zip(
                chosen,
                _greedy(model, [prompts[row] for row in chosen], encoder, max_tokens),
                strict=True,
            ):
                traces[index] = trace
    return traces


def _greedy(
    model: Qwen2VLForConditionalGeneration,
    prompts: list[tuple[list[int], Tensor | None]],
    encoder: Encoder,
    max_tokens: int,
) -> list[list[int]]:
    """Traces of prompts of one length."""
    group = pad([TrainingSequence(ids, [IGNORED] * len(ids), features) for ids, features in prompts], encoder)
    device = model.lm_head.weight.device
    ids = group.ids.to(device)
    embeds = model.get_input_embeddings()(ids)
    if group.features is not None:
        slots = (ids == encoder.image_pad).unsqueeze(-1)
        embeds = embeds.masked_scatter(slots, group.features.to(device, embeds.dtype))
    cache = DynamicCache(config=model.config.get_text_config())
    positions = group.positions.to(device)
    traces: list[list[int]] = [[] for _ in prompts]
    running = set(range(len(prompts)))
    for _ in range(max_tokens):
        output = model.model.language_model(
            inputs_embeds=embeds, position_ids=positions, past_key_values=cache, use_cache=True
        )
        tokens = model.lm_head(output.last_hidden_state[:, -1]).argmax(-1)
        for row in list(running):
            traces[row].append(int(tokens[row]))
            if traces[row][-1] == encoder.stop:
                running.remove(row)
        if not running:
            break
        embeds = model.get_input_embeddings()(tokens[:, None])
        # Text after text: the next position is one more than the last, the same on all three axes.
        positions = positions[:, :, -1:] + 1
    return traces
