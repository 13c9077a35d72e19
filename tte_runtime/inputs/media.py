"""From a picture, a video or a page to what stands for it in a prompt: placeholders, and the patches behind them.

A video goes frame by frame through the checkpoint's own image processor, which normalises and cuts. Frames are resized
by torch itself, as torchvision would have it do, so that pixels are those of transformers' video processors where
torchvision cannot be had. Knows families through `VideoRules` only, and no recipes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from tte_runtime.errors import VideoError
from tte_runtime.inputs.documents import render_page
from tte_runtime.inputs.items import Medium, Page, Picture, Video
from tte_runtime.inputs.pictures import Patches, PictureReader, patches_of
from tte_runtime.inputs.video_rules import VideoRules
from tte_runtime.inputs.videos import Clip, opened

VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"


@dataclass(frozen=True, eq=False)
class Shown:
    """A medium in a prompt.

    Attributes:
        text: what stands between the vision tokens that enclose it.
        patches: what is behind its runs of placeholders, in order.
    """

    text: str
    patches: tuple[Patches, ...]


class MediaReader:
    """Reads media as a checkpoint wants them.

    Args:
        folder: the checkpoint.
        config: its transformers config.
        pixels: least and most pixels of a picture; `None` for what the checkpoint says.

    Raises:
        CheckpointError: the config of its image or video processor is missing or unusable.
    """

    def __init__(self, folder: Path, config: Any, pixels: tuple[int, int] | None = None) -> None:
        self.pictures = PictureReader(folder, pixels)
        processor = self.pictures.processor
        self._merge: int = processor.merge_size
        self._temporal: int = processor.temporal_patch_size
        self.rules = VideoRules.of(folder, config, processor.patch_size * self._merge, self._temporal)
        self._max_tokens: int = config.text_config.max_position_embeddings
        self._read: WeakKeyDictionary[Medium, Shown] = WeakKeyDictionary()

    def same_as(self, other: MediaReader) -> bool:
        """Whether both make the same of every medium."""
        ours, theirs = self.pictures, other.pictures
        return (ours.backend, ours.settings, self.rules) == (theirs.backend, theirs.settings, other.rules)

    def read(self, medium: Medium) -> Shown:
        """What stands for a medium in a prompt. A request's medium is read once, however many models ask for it.

        Raises:
            PictureError, VideoError, DocumentError: it is missing, broken, or cannot be used.
            MissingExtraError: the library that reads it is not installed.
        """
        shown = self._read.get(medium)
        if shown is None:
            shown = self._read[medium] = self._video(medium) if isinstance(medium, Video) else self._still(medium)
        return shown

    def _still(self, medium: Picture | Page) -> Shown:
        if isinstance(medium, Page):
            patches = self.pictures.patches(render_page(medium))
        else:
            patches = self.pictures.read(medium.source)
        return Shown(IMAGE_PAD * patches.num_tokens, (patches,))

    def _video(self, video: Video) -> Shown:
        rules = self.rules
        with opened(video, rules.fps, rules.sample) as clip:
            pixels, grid = self._patchify(clip, self._target(clip, video))
        backend = f"{self.pictures.backend}|video"
        if not rules.stamped:
            interval = 1.0
            if rules.tokens_per_second is not None:
                interval = rules.tokens_per_second * (self._temporal / clip.fps)
            patches = patches_of(pixels, grid, self._merge, backend, interval=interval, is_video=True)
            return Shown(VIDEO_PAD * patches.num_tokens, (patches,))
        text, (t, h, w) = "", grid
        runs = [patches_of(one, (1, h, w), self._merge, backend, is_video=True) for one in pixels.chunk(t)]
        for seconds, patches in zip(rules.seconds(clip.indices, clip.rate), runs, strict=True):
            text += f"<{seconds:.1f} seconds>{VISION_START}{VIDEO_PAD * patches.num_tokens}{VISION_END}"
        return Shown(text, tuple(runs))

    def _target(self, clip: Clip, video: Video) -> tuple[int, int]:
        """(width, height) that frames are resized to."""
        try:
            width, height = self.rules.frame_size(clip.size, len(clip.indices), video.max_pixels)
        except ValueError as error:
            raise VideoError(f"frames of {clip.size[0]} x {clip.size[1]} pixels cannot be used: {error}.") from error
        tokens = -(-len(clip.indices) // self._temporal) * (width * height // self.rules.factor**2)
        if tokens > self._max_tokens:  # found before the frames are decoded, which may take gigabytes
            raise VideoError(
                f"{len(clip.indices)} frames of {width} x {height} pixels make {tokens} tokens, and the model's "
                f"context has {self._max_tokens}. Give a lower fps, a lower num_frames, or a lower max_pixels."
            )
        return width, height

    def _patchify(self, clip: Clip, size: tuple[int, int]) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """Patches of all frames, float32 [t * h * w, patch values], and (t, h, w)."""
        groups, h, w = [], 0, 0
        for group in _groups(clip.frames, self._temporal):
            frames = [_resized(frame, size) for frame in group]
            batch = self.pictures.processor(
                images=frames, do_resize=False, input_data_format="channels_first", return_tensors="pt"
            )
            _, h, w = (int(number) for number in batch["image_grid_thw"][0])
            # A picture's patch holds its frame `temporal` times over; a video's holds one time each of as many frames.
            copies = batch["pixel_values"].float().view(self._temporal, h * w, 3, self._temporal, -1)
            groups.append(copies[:, :, :, 0].permute(1, 2, 0, 3).reshape(h * w, -1))
        return torch.cat(groups), (len(groups), h, w)


def _resized(frame: Image.Image, size: tuple[int, int]) -> torch.Tensor:
    """uint8 [3, height, width], by the call that torchvision makes for transformers' video processors."""
    pixels = torch.from_numpy(np.array(frame)).permute(2, 0, 1)
    if frame.size == size:
        return pixels
    height_width = (size[1], size[0])
    return F.interpolate(pixels[None], size=height_width, mode="bicubic", antialias=True)[0]


def _groups(frames: Iterator[Image.Image], size: int) -> Iterator[list[Image.Image]]:
    """Frames in groups; the last one is filled up with its last frame."""
    group: list[Image.Image] = []
    for frame in frames:
        group.append(frame)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group + [group[-1]] * (size - len(group))
