"""From a request to the messages of a chat endpoint: pictures as data URLs, a video as frames, then the text.

Knows media and the form of messages; knows no endpoint.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tte_runtime.inputs.documents import render_page
from tte_runtime.inputs.items import Item, Medium, Page, Video
from tte_runtime.inputs.pictures import open_picture
from tte_runtime.inputs.videos import opened

MAX_FRAMES = 8  # of a video, where the request does not say how many


def chat_messages(item: Item, prompt: str, system: str | None, max_pixels: int) -> tuple[list[dict[str, Any]], str]:
    """The messages that ask for a trace.

    Args:
        item: the request's content.
        prompt: what the user's turn says, with `{text}` for the request's instruction and text.
        system: the system's turn, or `None`.
        max_pixels: most pixels of a picture; larger ones are shrunk.

    Returns:
        the messages, and a hash of what they show: of pixels, not of how they are encoded.

    Raises:
        InputError: a medium cannot be read.
    """
    content: list[dict[str, Any]] = []
    digest = hashlib.sha256()
    for medium in item.media:
        for image in _pictures(medium):
            shown = _shrunk(image.convert("RGB"), max_pixels)
            digest.update(f"{shown.size}|".encode() + shown.tobytes())
            content.append({"type": "image_url", "image_url": {"url": _data_url(shown)}})
    said = "\n".join(part for part in (item.instruction, item.text) if part)
    text = prompt.replace("{text}", said)  # braces in what was said mean nothing
    digest.update(text.encode())
    content.append({"type": "text", "text": text})
    messages = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": content}], digest.hexdigest()


def _pictures(medium: Medium) -> Iterator[Image.Image]:
    if isinstance(medium, Video):
        with opened(medium, 2.0, _evenly) as clip:
            yield from clip.frames
    elif isinstance(medium, Page):
        yield render_page(medium)
    else:
        yield open_picture(medium.source)


def _evenly(total: int, rate: float, video: Video) -> Sequence[int]:
    """Indices of frames, evenly spread."""
    wanted = video.num_frames or (round(total / rate * video.fps) if video.fps else MAX_FRAMES)
    indices: list[int] = np.linspace(0, total - 1, max(1, min(wanted, total))).round().astype(int).tolist()
    return indices


def _shrunk(image: Image.Image, max_pixels: int) -> Image.Image:
    scale = math.sqrt(max_pixels / (image.width * image.height))
    if scale >= 1:
        return image
    size = max(1, int(image.width * scale)), max(1, int(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC)


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
