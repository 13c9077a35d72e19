"""From words to what the model eats in training: prompt and trace ids, labels, M-RoPE positions, padded
groups.

Knows the checkpoint's prompts and special tokens; knows nothing of scenes, and nothing of what the loss is.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tte_runtime.training.checkpoint import PROMPTS, STOP, SUFFIX
from tte_runtime.training.states import IGNORED as IGNORED


@dataclass(frozen=True)
class TrainingSequence:
    """One training sequence: token ids, labels (IGNORED where no loss is taken) and the features of its
    picture, [n, C] or None.
    """

    ids: list[int]
    labels: list[int]
    features: Tensor | None


class Encoder:
    """The tokenizer with the checkpoint's prompts around it."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.image_pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.vision_end = tokenizer.convert_tokens_to_ids("<|vision_end|>")
        self.stop = tokenizer.convert_tokens_to_ids(STOP)
        self.suffix = tokenizer.convert_tokens_to_ids(SUFFIX)
        self.encode = functools.lru_cache(maxsize=65536)(self._encode)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text).input_ids)

    def prompt(self, role: str, text: str, image_tokens: int) -> list[int]:
        """The prompt's ids for one request with at most one picture of `image_tokens` merged tokens (0:
        none).
        """
        media = "<|vision_start|>" + "<|image_pad|>" * image_tokens + "<|vision_end|>" if image_tokens else ""
        before, after = PROMPTS[role].replace("{media}", media).split("{text}")
        return [*self.encode(before), *self.encode(text), *self.encode(after)]

    def beginning(self, image_tokens: int) -> list[int]:
        """The ids that every prompt with one picture begins with, up to and including `<|vision_end|>`."""
        whole = self.prompt("query", "", image_tokens)
        return whole[: whole.index(self.vision_end) + 1]

    def trace(self, trace: str) -> list[int]:
        """The ids of a whole trace, stop token included."""
        return [*self.encode(trace), self.stop]

    def sequence(self, role: str, text: str, features: Tensor | None, trace: str) -> TrainingSequence:
        """Prompt and trace, loss on the trace."""
        prompt = self.prompt(role, text, 0 if features is None else len(features))
        thought = self.trace(trace)
        return TrainingSequence(prompt + thought, [IGNORED] * len(prompt) + thought, features)


def mrope_positions(ids: Sequence[int], image_pad: int) -> Tensor:
    """M-RoPE positions of one sequence with at most one square picture, int64 [3, T]; equal to
    transformers' get_rope_index.
    """
    total = len(ids)
    count = sum(token == image_pad for token in ids)
    if count == 0:
        return torch.arange(total).expand(3, total)
    start = list(ids).index(image_pad)
    side = round(count**0.5)
    assert side * side == count, "training pictures are square"
    index = torch.arange(count)
    picture = start + torch.stack((torch.zeros_like(index), index // side, index % side))
    tail = start + side + torch.arange(total - start - count)
    return torch.cat((torch.arange(start).expand(3, start), picture, tail.expand(3, -1)), dim=1)


@dataclass(frozen=True)
class Group:
    """Right-padded sequences: ids and labels int64 [S, T], positions int64 [3, S, T], features [N, C] of
    all image slots in row order.
    """

    ids: Tensor
    labels: Tensor
    positions: Tensor
    features: Tensor | None
    lengths: Tensor


def pad(sequences: list[TrainingSequence], encoder: Encoder) -> Group:
    """Pad to the longest. Positions behind the end continue; nothing reads them."""
    longest = max(len(one.ids) for one in sequences)
    ids = torch.full((len(sequences), longest), encoder.suffix)
    labels = torch.full((len(sequences), longest), IGNORED)
    positions = torch.zeros((3, len(sequences), longest), dtype=torch.int64)
    for row, one in enumerate(sequences):
        ids[row, : len(one.ids)] = torch.tensor(one.ids)
        labels[row, : len(one.ids)] = torch.tensor(one.labels)
        positions[:, row, : len(one.ids)] = mrope_positions(one.ids, encoder.image_pad)
    features = [one.features for one in sequences if one.features is not None]
    lengths = torch.tensor([len(one.ids) for one in sequences])
    return Group(ids, labels, positions, torch.cat(features).float() if features else None, lengths)


@dataclass(frozen=True)
class Row:
    """Several sequences of one scene in one row of fixed length, the scene's picture written once.

    ids, labels: int64 [T]; positions int64 [3, T]; may_see bool [T, T] (query, key); features [N, C] or None.
    """

    ids: Tensor
    labels: Tensor
    positions: Tensor
    may_see: Tensor
    features: Tensor | None


def pack(scene: TrainingSequence, sequences: list[TrainingSequence], encoder: Encoder, length: int) -> Row:
    """Pack sequences behind one copy of the scene's picture; each computes exactly what it would alone.

    scene: the common beginning (up to `<|vision_end|>`) with the scene's features. A sequence that begins
    with it (same features object) is stripped of it and may see it; any other stands on its own. Positions
    restart, attention stays within a sequence and its picture.
    """
    ids = torch.full((length,), encoder.suffix)
    labels = torch.full((length,), IGNORED)
    positions = torch.zeros((3, length), dtype=torch.int64)
    owner = torch.full((length,), -1)
    sees = torch.zeros(length, dtype=torch.bool)
    features, end = [], 0
    for number, one in enumerate([scene, *sequences]):
        shared = number > 0 and one.features is scene.features
        skip = len(scene.ids) if shared else 0
        assert not shared or one.ids[:skip] == scene.ids, "a sequence of the scene begins with its picture"
        span = slice(end, end + len(one.ids) - skip)
        end = span.stop
        assert end <= length, f"{end} tokens in a row of {length}"
        ids[span] = torch.tensor(one.ids[skip:])
        labels[span] = torch.tensor(one.labels[skip:])
        positions[:, span] = mrope_positions(one.ids, encoder.image_pad)[:, skip:]
        owner[span], sees[span] = number, shared
        if one.features is not None and not shared:
            features.append(one.features)
    may_see = (owner[:, None] == owner[None, :]) | (sees[:, None] & (owner[None, :] == 0))
    return Row(ids, labels, positions, may_see.tril(), torch.cat(features).float() if features else None)
