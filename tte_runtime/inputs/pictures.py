"""From a picture in any form to patches: opened, checked, resized and normalised by the model's own image processor.

Uses torchvision's processor where torchvision can be imported and the PIL one elsewhere; their pixels differ by up
to 0.015 when resizing, so the backend is part of a picture's key and of the fingerprint. Knows no prompts.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import AutoImageProcessor

from tte_runtime.errors import CheckpointError, PictureError


@dataclass(frozen=True, eq=False)
class Patches:
    """A picture as the vision tower takes it.

    Attributes:
        pixels: float32 [t * h * w, patch values].
        grid: (t, h, w) in patches.
        merged: (t, h, w) in merged tokens, as the decoder's positions count them.
        key: digest of pixels, grid and backend.
    """

    pixels: torch.Tensor
    grid: tuple[int, int, int]
    merged: tuple[int, int, int]
    key: bytes

    @property
    def num_tokens(self) -> int:
        """Placeholder tokens in the prompt."""
        t, h, w = self.merged
        return t * h * w


class PictureReader:
    """Opens pictures and cuts them into patches as a checkpoint wants it.

    Args:
        folder: a checkpoint with `preprocessor_config.json`.

    Raises:
        CheckpointError: the processor's config is missing or unusable.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "preprocessor_config.json").is_file():
            raise CheckpointError(f"{folder} has no preprocessor_config.json. Copy it from the base model.")
        try:
            self._processor = AutoImageProcessor.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"the image processor of {folder} cannot be loaded: {error}") from error
        self.backend = type(self._processor).__name__

    def read(self, picture: Any) -> Patches:
        """Patches of one picture; raises PictureError where it is missing, broken or too slender."""
        image = open_picture(picture)
        try:
            batch = self._processor(images=[image], return_tensors="pt")
        except ValueError as error:
            size = f"{image.width} x {image.height}"
            raise PictureError(f"a picture of {size} pixels cannot be used: {error}.") from error
        t, h, w = (int(size) for size in batch["image_grid_thw"][0])
        merge = self._processor.merge_size
        pixels = batch["pixel_values"].float().contiguous()
        digest = hashlib.sha256(f"{self.backend}|{t},{h},{w}|".encode())
        digest.update(pixels.numpy().tobytes())
        return Patches(pixels, (t, h, w), (t, h // merge, w // merge), digest.digest())


def open_picture(picture: Any) -> Image.Image:
    """A picture as PIL, upright and fully decoded.

    Args:
        picture: a path, a PIL image, encoded bytes, or an array [height, width] or [height, width, 3 or 4] of uint8.

    Raises:
        PictureError: it is missing, broken, empty, too large to be decoded safely, or an array of another kind.
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
    if isinstance(picture, bytes):
        name, source = f"{len(picture)} bytes", io.BytesIO(picture)
    else:
        path = Path(picture).expanduser()
        if not path.is_file():
            raise PictureError(f"picture {str(picture)!r} does not exist. Check the path.")
        name, source = repr(str(picture)), path  # type: ignore[assignment]
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
