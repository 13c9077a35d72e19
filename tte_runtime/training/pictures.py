"""How many tokens a picture takes, from its size alone: what is wrong with it is known before its step comes.

Opens files and reads their checksums, decodes nothing. Knows image processors; knows no items.
"""

from __future__ import annotations

from typing import Any

from PIL import Image

from tte_runtime.errors import PictureError
from tte_runtime.inputs.sources import locate, name_of


class PictureTokens:
    """Counts the tokens of pictures, each file once.

    Args:
        processor: the checkpoint's own image processor.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._known: dict[str, int] = {}

    def of(self, source: str) -> int:
        """Tokens of the picture at a path or in a data URL.

        Raises:
            PictureError: it cannot be opened, its checksums do not hold, or it is too slender. A JPEG has none, so that
            one which is cut off passes.
        """
        if source not in self._known:
            self._known[source] = self.of_size(*_size(source))
        return self._known[source]

    def of_size(self, width: int, height: int) -> int:
        """Tokens of a picture of so many pixels; raises PictureError where it is too slender."""
        try:
            patches = self._processor.get_number_of_image_patches(height, width)
        except ValueError as error:
            raise PictureError(f"a picture of {width} x {height} pixels cannot be used: {error}.") from error
        return int(patches) // int(self._processor.merge_size) ** 2


def _size(source: str) -> tuple[int, int]:
    place = locate(source, "picture", PictureError)
    try:
        with Image.open(place) as image:
            size = image.size
            image.verify()
    except Exception as error:  # PIL raises many kinds on broken files
        raise PictureError(
            f"picture {name_of(source)} cannot be read: {error}. Save it again as PNG or JPEG."
        ) from error
    return size
