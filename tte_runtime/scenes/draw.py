"""From a scene to pixels: pictures of varied place and size on varied backgrounds, every cell's name
printed in its corner.

The names are printed because a board without them gives a small model no handle on absolute position: the
width axis of M-RoPE turns by the lowest frequencies and is nearly invisible to it. Pure functions of the
generator they are given. Knows nothing of models; the 224 pixels of a board become 112, one cell one merged
token, only because the checkpoint's own image processor says so.
"""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tte_runtime.scenes.pictures import scaled_picture
from tte_runtime.scenes.world import CELLS, Scene

BOARD_PX = 224
CELL_PX = 56
LABEL_SIZE = (20, 15)
PICTURE_SIZES_PX = (32, 47)


def background(side: int, rng: np.random.Generator) -> Image.Image:
    """A light-to-middling backdrop of `side` pixels, RGB: solid, gradient, checks or noise."""
    kind = int(rng.integers(4))
    first = rng.integers(120, 256, 3)
    if kind == 0:
        return Image.new("RGB", (side, side), tuple(int(value) for value in first))
    second = np.clip(first + rng.integers(-60, 61, 3), 90, 255)
    if kind == 1:
        ramp = np.linspace(0.0, 1.0, side)[:, None, None]
        pixels = np.broadcast_to(first * (1 - ramp) + second * ramp, (side, side, 3))
        pixels = pixels if rng.integers(2) else pixels.transpose(1, 0, 2)
    elif kind == 2:
        index = np.arange(side) // int(rng.integers(7, 29))
        pixels = np.where(((index[:, None] + index[None, :]) % 2)[..., None], first, second)
    else:
        grain = rng.integers(-18, 19, (side // 2, side // 2, 1), dtype=np.int16).repeat(2, 0).repeat(2, 1)
        grain = np.pad(grain, ((0, side % 2), (0, side % 2), (0, 0)), mode="edge")
        pixels = np.clip(first.astype(np.int16) + grain, 0, 255)
    return Image.fromarray(np.ascontiguousarray(pixels).astype(np.uint8), "RGB")


@functools.cache
def _label(cell: str) -> Image.Image:
    """The printed name of a cell: white letters on a dark plate, RGB."""
    plate = Image.new("RGB", LABEL_SIZE, (24, 28, 40))
    font = ImageFont.load_default(size=15)
    ImageDraw.Draw(plate).text((LABEL_SIZE[0] / 2, LABEL_SIZE[1] / 2), cell, fill="white", font=font, anchor="mm")
    return plate


@functools.cache
def _plates() -> tuple[Image.Image, Image.Image]:
    """All sixteen labels on one board-sized sheet, and the mask of where they are: one paste a scene
    instead of sixteen.
    """
    sheet = Image.new("RGB", (BOARD_PX, BOARD_PX))
    mask = Image.new("L", (BOARD_PX, BOARD_PX))
    for index, cell in enumerate(CELLS):
        corner = ((index % 4) * CELL_PX + 1, (index // 4) * CELL_PX + 1)
        sheet.paste(_label(cell), corner)
        mask.paste(255, (*corner, corner[0] + LABEL_SIZE[0], corner[1] + LABEL_SIZE[1]))
    return sheet, mask


def draw_scene(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """The board with `scene` on it, 224x224 RGB; backdrop, places and sizes from `rng`."""
    board = background(BOARD_PX, rng)
    jitter = rng.random((len(CELLS), 2))
    sizes = rng.integers(*PICTURE_SIZES_PX, len(CELLS))
    content = scene.content
    for index, cell in enumerate(CELLS):
        # Drawn for every cell, occupied or not, so that an edited scene keeps the other pictures' places.
        side = int(sizes[index])
        if cell in content:
            image = scaled_picture(content[cell], side)
            left = (index % 4) * CELL_PX + int(jitter[index, 0] * (CELL_PX - side))
            top = (index // 4) * CELL_PX + 4 + int(jitter[index, 1] * (CELL_PX - 4 - side))
            board.paste(image, (left, top), image)
    sheet, mask = _plates()
    board.paste(sheet, (0, 0), mask)
    return board


def draw_picture(name: str, side: int, rng: np.random.Generator) -> Image.Image:
    """One picture alone on a backdrop, `side`x`side` RGB; `side` from 56 to 224 pixels is what the model
    knows.
    """
    canvas = background(side, rng)
    inner = int(side * rng.uniform(0.65, 0.95))
    image = scaled_picture(name, inner)
    canvas.paste(image, (int(rng.integers(side - inner + 1)), int(rng.integers(side - inner + 1))), image)
    return canvas
