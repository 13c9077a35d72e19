"""Greedy traces of a model in training, for many prompts at once, left-padded behind an attention mask.

A tool of training and of its checks; serving has the engine. Knows nothing of questions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache, Qwen2VLForConditionalGeneration

from tte_runtime.training.tokens import Encoder, mrope_positions

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
    traces: list[list[int]] = []
    for start in range(0, len(prompts), MAX_ROWS):
        traces += _greedy(model, prompts[start : start + MAX_ROWS], encoder, max_tokens)
    return traces


def _greedy(
    model: Qwen2VLForConditionalGeneration,
    prompts: list[tuple[list[int], Tensor | None]],
    encoder: Encoder,
    max_tokens: int,
) -> list[list[int]]:
    """Traces of one batch; a row that has stopped is carried along and ignored."""
    device = model.lm_head.weight.device
    longest = max(len(ids) for ids, _ in prompts)
    ids = torch.full((len(prompts), longest), encoder.suffix)
    positions = torch.zeros((3, len(prompts), longest), dtype=torch.int64)
    seen = torch.zeros((len(prompts), longest), dtype=torch.int64)
    for row, (prompt, _) in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        positions[:, row, longest - len(prompt) :] = mrope_positions(prompt, encoder.image_pad)
        seen[row, longest - len(prompt) :] = 1
    ids, positions, seen = ids.to(device), positions.to(device), seen.to(device)
    embeds = model.get_input_embeddings()(ids)
    features = [one for _, one in prompts if one is not None]
    if features:
        slots = (ids == encoder.image_pad).unsqueeze(-1)
        embeds = embeds.masked_scatter(slots, torch.cat(features).to(device, embeds.dtype))
    cache = DynamicCache(config=model.config.get_text_config())
    traces: list[list[int]] = [[] for _ in prompts]
    running = set(range(len(prompts)))
    for _ in range(max_tokens):
        output = model.model.language_model(
            inputs_embeds=embeds,
            position_ids=positions,
            attention_mask=seen,
            past_key_values=cache,
            use_cache=True,
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
        seen = torch.cat((seen, torch.ones_like(seen[:, :1])), dim=1)
    return traces
