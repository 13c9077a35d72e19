"""From a picture in any form to patches: opened, checked, resized and normalised by the model's own image processor.

Uses torchvision's processor where torchvision can be imported and the PIL one elsewhere, the latter by a table that
gives its bits (pixel_table.py); their pixels differ by up to 0.015 when resizing, so the backend is part of a picture's
key and of the fingerprint. Knows no prompts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # elsewhere 5.10 wants torchvision

from tte_runtime.errors import CheckpointError, PictureError
from tte_runtime.inputs.pixel_table import PixelTable
from tte_runtime.inputs.sources import locate, name_of


@dataclass(frozen=True, eq=False)
class Patches:
    """A picture, a video, or a temporal patch of one, as the vision tower takes it. Made by `patches_of`.

    Attributes:
        pixels: float32 [t * h * w, patch values].
        grid: (t, h, w) in patches.
        merged: (t, h, w) in merged tokens, as the decoder's positions count them.
        key: digest of pixels, grid, timing and backend.
        interval: positions of the time axis from one temporal patch to the next.
        is_video: it stands behind video placeholders.
    """

    pixels: torch.Tensor
    grid: tuple[int, int, int]
    merged: tuple[int, int, int]
    key: bytes
    interval: float = 1.0
    is_video: bool = False

    @property
    def num_tokens(self) -> int:
        """Placeholder tokens in the prompt."""
        t, h, w = self.merged
        return t * h * w


def patches_of(
    pixels: torch.Tensor,
    grid: tuple[int, int, int],
    merge: int,
    backend: str,
    interval: float = 1.0,
    is_video: bool = False,
    decided_by: bytes | None = None,
) -> Patches:
    """Patches with their key; `merge` patches a side become one token, `backend` made the pixels.

    `decided_by` is a digest of what decides the pixels, in their stead.
    """
    t, h, w = grid
    digest = hashlib.sha256(f"{backend}|{t},{h},{w}|{interval}|".encode())
    digest.update(pixels.numpy().data if decided_by is None else decided_by)
    return Patches(pixels, grid, (t, h // merge, w // merge), digest.digest(), interval, is_video)


class PictureReader:
    """Opens pictures and cuts them into patches as a checkpoint wants it.

    Args:
        folder: a checkpoint with `preprocessor_config.json`.
        pixels: least and most pixels of a picture; `None` for what the checkpoint says.

    Raises:
        CheckpointError: the processor's config is missing or unusable.
    """

    def __init__(self, folder: Path, pixels: tuple[int, int] | None = None) -> None:
        if not (folder / "preprocessor_config.json").is_file():
            raise CheckpointError(f"{folder} has no preprocessor_config.json. Copy it from the base model.")
        try:
            # Not as `size`: where the checkpoint's file has these two, they win over a size that is passed here.
            limits = {"min_pixels": pixels[0], "max_pixels": pixels[1]} if pixels else {}
            self.processor: Any = AutoImageProcessor.from_pretrained(folder, **limits)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"the image processor of {folder} cannot be loaded: {error}") from error
        self.backend = type(self.processor).__name__
        self.settings: dict[str, Any] = json.loads(self.processor.to_json_string())
        self._table = PixelTable.learn(self.processor)

    def read(self, picture: Any) -> Patches:
        """Patches of one picture, in any form; raises PictureError where it is missing, broken or too slender."""
        return self.patches(open_picture(picture))

    def patches(self, image: Image.Image) -> Patches:
        """Patches of an opened picture; raises PictureError where it is too slender."""
        merge = self.processor.merge_size
        try:
            if self._table is not None and self._table.takes(image):
                looked = self._table.look_up(image)
                pixels = torch.from_numpy(looked.pixels)
                return patches_of(pixels, looked.grid, merge, self.backend, decided_by=looked.digest)
            batch = self.processor(images=[image], return_tensors="pt")
        except ValueError as error:
            size = f"{image.width} x {image.height}"
            raise PictureError(f"a picture of {size} pixels cannot be used: {error}.") from error
        t, h, w = (int(size) for size in batch["image_grid_thw"][0])
        return patches_of(batch["pixel_values"].float().contiguous(), (t, h, w), merge, self.backend)


def open_picture(picture: Any) -> Image.Image:
    """A picture as PIL, upright and fully decoded.

    Args:
        picture: a path, an http(s) URL, a data URL, encoded bytes, a PIL image, or a uint8 array [height, width] or
            [height, width, 3 or 4].

    Raises:
        PictureError: it is missing, broken, empty, cannot be fetched, is too large, or an array of another kind.
    """
    if isinstance(picture, Image.Image):
        image = picture
    elif isinstance(picture, np.ndarray):
        image = _from_array(picture)
    else:
        image = _decode(picture)
    if image.width < 1 or image.height < 1:
        raise PictureError(f"a picture must have pixels, got {image.width} x {image.height}.")
    return image


def _decode(picture: Any) -> Image.Image:
    source, name = locate(picture, "picture", PictureError), name_of(picture)
    try:
        with Image.open(source) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except Image.DecompressionBombError as error:
        raise PictureError(f"picture {name} is too large to be decoded safely: {error} Resize it first.") from error
    except Exception as error:  # PIL raises many kinds on broken files: OSError, SyntaxError, struct.error, ...
        raise PictureError(f"picture {name} cannot be read: {error}. Save it again as PNG or JPEG.") from error


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise PictureError(
            f"an array must be uint8 [height, width] or [height, width, 3 or 4], got {array.dtype} {list(array.shape)}."
        )
    if 0 in array.shape:
        raise PictureError(f"a picture must have pixels, got an array of shape {list(array.shape)}.")
    return Image.fromarray(array)
