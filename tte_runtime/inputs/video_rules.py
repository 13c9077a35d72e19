"""How a family looks at videos: which frames, how large, and how time gets into the prompt.

The arithmetic is that of transformers' video processors (`Qwen2VLVideoProcessor`, `Qwen3VLVideoProcessor`, 5.10 to
5.23), which need torchvision; the limits are read from the same files, in the same order. Knows no frames.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as frame_size
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as clip_size

from tte_runtime.errors import CheckpointError, VideoError
from tte_runtime.inputs.items import Video

# What the video processors' classes say where a checkpoint's files do not; pixels are counted in merged tokens.
DEFAULTS: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"tokens": (128, 768), "max_video_tokens": 128_000},
    "qwen2_5_vl": {"tokens": (128, 768), "max_video_tokens": 128_000},
    "qwen3_vl": {"tokens": (128, 768), "max_video_tokens": 768},
}


@dataclass(frozen=True)
class VideoRules:
    """Limits of one checkpoint, in frames and pixels.

    Attributes:
        whole: the limits of pixels are for all frames together (Qwen3-VL); else for each.
        stamped: every temporal patch has its time before it, as text (Qwen3-VL).
        tokens_per_second: positions of the time axis in a second (Qwen2.5-VL); `None` where it counts temporal patches.
        factor: pixels to a merged token's side. temporal: frames to a temporal patch.
        fps: frames a second that are looked at. num_frames: how many instead, where it is said.
        min_frames, max_frames: how many at least and at most, when going by `fps`.
        min_pixels, max_pixels: of a frame, or of all together.
        capped: pixels are limited further by `max_video_tokens`, as the authors' own tools do.
    """

    whole: bool
    stamped: bool
    tokens_per_second: float | None
    factor: int
    temporal: int
    fps: float
    num_frames: int | None
    min_frames: int
    max_frames: int
    min_pixels: int
    max_pixels: int
    capped: bool
    max_video_tokens: int

    @classmethod
    def of(cls, folder: Path, config: Any, factor: int, temporal: int) -> VideoRules:
        """The rules of a checkpoint.

        Args:
            folder: read for `processor_config.json`, `video_preprocessor_config.json`, `preprocessor_config.json`.
            config: its transformers config.
            factor, temporal: as the attributes, of its image processor.
        """
        family = DEFAULTS[config.model_type]
        entry = read_video_config(folder)
        size = entry.get("size") or {}
        low, high = (tokens * factor**2 for tokens in family["tokens"])
        return cls(
            whole=config.model_type == "qwen3_vl",
            stamped=config.model_type == "qwen3_vl",
            tokens_per_second=config.vision_config.tokens_per_second if config.model_type == "qwen2_5_vl" else None,
            factor=factor,
            temporal=temporal,
            fps=entry.get("fps") or 2.0,
            num_frames=entry.get("num_frames"),
            min_frames=entry.get("min_frames") or 4,
            max_frames=entry.get("max_frames") or 768,
            min_pixels=entry.get("min_pixels") or size.get("shortest_edge") or low,
            max_pixels=entry.get("max_pixels") or size.get("longest_edge") or high,
            capped=bool(entry.get("cap_pixels_per_frame")),
            max_video_tokens=entry.get("max_video_tokens") or family["max_video_tokens"],
        )

    def sample(self, total: int, rate: float, video: Video) -> Sequence[int]:
        """Indices of the frames to look at.

        Args:
            total, rate: frames of the video, and its frames a second.
            video: `fps` and `num_frames` go before the checkpoint's own.

        Raises:
            VideoError: more frames are asked for than there are.
        """
        num_frames = video.num_frames or (None if video.fps else self.num_frames)
        if num_frames is not None and num_frames > total:
            raise VideoError(f"num_frames is {num_frames}, and the video has {total} frames. Ask for at most {total}.")
        fps = video.fps or self.fps
        if self.whole:
            count = num_frames or min(max(int(total / rate * fps), self.min_frames), self.max_frames, total)
            return np.linspace(0, total - 1, count).round().astype(int).tolist()
        if num_frames is not None:
            count = round(num_frames / self.temporal) * self.temporal
        else:
            most = math.floor(min(self.max_frames, total) / self.temporal) * self.temporal
            wanted = min(max(total / rate * fps, self.min_frames), most)
            count = math.floor(wanted / self.temporal) * self.temporal
        if not 0 < count <= total:  # fewer frames than a temporal patch takes, or an odd number asked for of as many
            return range(num_frames or total)
        return torch.arange(0, total, total / count).int()[:count].tolist()

    def frame_size(self, size: tuple[int, int], num_frames: int, max_pixels: int | None) -> tuple[int, int]:
        """(width, height) of a resized frame; `size` is its own.

        Raises:
            ValueError: it is more than 200 times as long as wide.
        """
        width, height = size
        low, high = self.min_pixels, self.max_pixels
        if self.whole:
            num_frames = max(num_frames, self.temporal)  # a shorter clip is filled up with its last frame
            if self.capped:
                each = min(self.max_video_tokens * self.factor**2, high // num_frames)
                high = max(each, int(low * 1.05)) * num_frames
            high = min(high, max_pixels * num_frames) if max_pixels else high
            height, width = clip_size(num_frames, height, width, self.temporal, self.factor, min(low, high), high)
            return width, height
        if self.capped:
            budget = int(self.max_video_tokens * self.factor**2 * 0.9)
            high = max(min(high, budget * self.temporal // num_frames), int(low * 1.05))
        high = min(high, max_pixels) if max_pixels else high
        height, width = frame_size(height, width, self.factor, min(low, high), high)
        return width, height

    def seconds(self, indices: Sequence[int], rate: float) -> list[float]:
        """When each temporal patch is: halfway between its first and its last frame."""
        filled = [*indices, *[indices[-1]] * (-len(indices) % self.temporal)]
        times = [index / rate for index in filled]
        return [(times[i] + times[i + self.temporal - 1]) / 2 for i in range(0, len(times), self.temporal)]


def read_video_config(folder: Path) -> dict[str, Any]:
    """What a checkpoint says about videos, where transformers looks for it; empty where it says nothing.

    Raises:
        CheckpointError: a file is no JSON object.
    """
    for name in ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            entry = entry.get("video_processor") if name == "processor_config.json" else entry
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"{path} is no JSON object: {error}.") from error
        if isinstance(entry, dict):
            return entry
    return {}
