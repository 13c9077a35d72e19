"""A table gives the bits of the image processor that it was learnt from, or there is no table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil as Processor

from tte_runtime.inputs.pictures import PictureReader
from tte_runtime.inputs.pixel_table import PixelTable
from tte_runtime.models.checkpoint import find_folder

QWEN3 = {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
LIMITS = {"min_pixels": 56 * 56, "max_pixels": 300 * 300}


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(width + height).integers(0, 256, (height, width, len(mode)), np.uint8)
    return Image.fromarray(values.squeeze(axis=2) if mode == "L" else values)


@pytest.mark.parametrize("settings", [{}, QWEN3, {"do_normalize": False}, {"do_rescale": False}])
def test_a_table_gives_the_bits_of_its_processor(settings: dict[str, Any]) -> None:
    processor = Processor(**LIMITS, **settings)
    table = PixelTable.learn(processor)
    assert table is not None
    for size in [(1, 1), (20, 33), (28, 28), (199, 7), (640, 333), (1000, 40)]:
        image = noise(*size)
        looked, batch = table.look_up(image), processor(images=[image], return_tensors="np")
        assert [list(looked.grid)] == batch["image_grid_thw"].tolist()
        np.testing.assert_array_equal(looked.pixels, batch["pixel_values"])


class Brighter(Processor):  # type: ignore[misc]
    """What a byte becomes depends on the whole picture."""

    def normalize(self, image: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
        return super().normalize(image / max(image.max(), 0.1), *args, **kwargs)


@pytest.mark.parametrize("processor", [Brighter(**LIMITS), Processor(**LIMITS, do_resize=False), object()])
def test_there_is_no_table_of_a_processor_that_does_something_else(processor: Any) -> None:
    assert PixelTable.learn(processor) is None


def test_keys_tell_pixels_and_processors_apart() -> None:
    image, other = noise(56, 56), noise(56, 56)
    other.putpixel((3, 3), (1, 2, 3))
    tables = [PixelTable.learn(Processor(**LIMITS, **settings)) for settings in ({}, {"image_std": [0.3] * 3})]
    digests = {table.look_up(one).digest for table in tables if table for one in (image, other)}
    assert len(digests) == 4


def test_pictures_take_the_table_where_they_are_rgb(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = PictureReader(find_folder("tte-tiny"))
    by_table = reader.read(noise(50, 60))
    looked: list[Image.Image] = []
    real = PixelTable.look_up
    monkeypatch.setattr(PixelTable, "look_up", lambda self, image: looked.append(image) or real(self, image))
    assert reader.read(noise(50, 60)).key == by_table.key
    reader.read(noise(50, 60, "RGBA"))
    reader.read(noise(50, 60, "L"))
    clear = noise(50, 60)
    clear.info["transparency"] = (0, 0, 0)
    reader.read(clear)
    assert [image.mode for image in looked] == ["RGB"]
    monkeypatch.setattr(reader, "_table", None)
    assert torch.equal(reader.read(noise(50, 60)).pixels, by_table.pixels)
