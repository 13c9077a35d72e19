"""Patches of a picture by a table: what a checkpoint's image processor makes of each of a channel's 256 values.

Behind resizing, such a processor is a function of single bytes, and then it cuts. So it is asked once what it does to
every byte, and a picture's own bytes are cut, looked up and digested: an eighth of the memory that the processor moves.
Knows processors of transformers that resize by PIL; knows no files and no prompts.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

PROBE = (97, 61)  # width and height of a picture that every processor has to resize


@dataclass(frozen=True)
class Looked:
    """A picture, looked up.

    Attributes:
        pixels: float32 [h * w, 3 * temporal * patch * patch], bit for bit the processor's.
        grid: (1, h, w) in patches.
        digest: of all that decides the pixels.
    """

    pixels: NDArray[np.float32]
    grid: tuple[int, int, int]
    digest: bytes


class PixelTable:
    """What one processor does, learnt from it. Made by `learn`.

    Args:
        processor: an image processor of transformers, of the Qwen-VL families' kind.
        values: float32 [3, 256], what it makes of each byte of each channel.
    """

    def __init__(self, processor: Any, values: NDArray[np.float32]) -> None:
        self._values = values
        self._patch, self._merge = int(processor.patch_size), int(processor.merge_size)
        self._temporal = int(processor.temporal_patch_size)
        self._resample = processor.resample
        self._least, self._most = int(processor.size["shortest_edge"]), int(processor.size["longest_edge"])

    @classmethod
    def learn(cls, processor: Any) -> PixelTable | None:
        """The table of a processor; `None` where a table does not give its bits: it does something else."""
        probe = np.random.default_rng(0).integers(0, 256, (PROBE[1], PROBE[0], 3), np.uint8)
        image = Image.fromarray(probe)
        try:
            table = cls(processor, _values(processor))
            looked, batch = table.look_up(image), processor(images=[image], return_tensors="np")
        except (AttributeError, KeyError, TypeError, ValueError):  # other attributes, or another cut
            return None
        same = np.array_equal(looked.pixels, batch["pixel_values"])
        return table if same and [list(looked.grid)] == batch["image_grid_thw"].tolist() else None

    @staticmethod
    def takes(image: Image.Image) -> bool:
        """Whether a picture is three channels of bytes as it is; others are converted by the processor."""
        return image.mode == "RGB" and image.info.get("transparency") is None

    def look_up(self, image: Image.Image) -> Looked:
        """Resize, cut and look up an RGB picture; raises ValueError where it is too slender."""
        patch, merge = self._patch, self._merge
        height, width = smart_resize(image.height, image.width, patch * merge, self._least, self._most)
        rows, columns = height // patch, width // patch
        resized = np.asarray(image.resize((width, height), self._resample))
        cut = resized.reshape(rows // merge, merge, patch, columns // merge, merge, patch, 3)
        cut = np.ascontiguousarray(cut.transpose(0, 3, 1, 4, 6, 2, 5)).reshape(rows * columns, 3, patch * patch)
        pixels = np.empty((rows * columns, 3, self._temporal, patch * patch), np.float32)
        for channel, values in enumerate(self._values):
            pixels[:, channel] = values.take(cut[:, channel])[:, None]
        digest = hashlib.sha256(self._values.tobytes())
        digest.update(cut.data)
        return Looked(pixels.reshape(rows * columns, -1), (1, rows, columns), digest.digest())


def _values(processor: Any) -> NDArray[np.float32]:
    """What the processor makes of every byte, float32 [3, 256]: of a picture of one colour, 256 times."""
    side = processor.patch_size * processor.merge_size
    flat = [Image.new("RGB", (side, side), (value, value, value)) for value in range(256)]
    batch = processor(images=flat, do_resize=False, return_tensors="np")["pixel_values"]
    channels = batch.reshape(256, -1, 3, processor.temporal_patch_size * processor.patch_size**2)
    return np.ascontiguousarray(channels[:, 0, :, 0].T, np.float32)
