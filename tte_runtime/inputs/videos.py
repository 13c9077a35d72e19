"""A video as frames with their times: a file decoded by PyAV (the extra `video`), or frames as they are given.

Frames are decoded one at a time, as they are asked for, so that a long video is never in memory whole. Which frames
are wanted is `video_rules`'; knows nothing of patches.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tte_runtime.errors import MissingExtraError, VideoError
from tte_runtime.inputs.items import Video
from tte_runtime.inputs.pictures import open_picture
from tte_runtime.inputs.sources import locate, name_of

# (frames there are, frames a second, frames wanted or None) -> indices of those to look at
Sampler = Callable[[int, float, Video], Sequence[int]]


@dataclass(frozen=True, eq=False)
class Clip:
    """What of a video is looked at.

    Attributes:
        frames: RGB pictures of one size, one for each index; can be gone through once.
        size: (width, height) of a frame, in pixels.
        indices: which frames of the video they are, ascending.
        total: frames that the video has.
        rate: its frames a second.
    """

    frames: Iterator[Image.Image]
    size: tuple[int, int]
    indices: tuple[int, ...]
    total: int
    rate: float

    @property
    def fps(self) -> float:
        """Frames a second that are looked at, as transformers' `VideoMetadata.sampled_fps` counts them."""
        return len(self.indices) / self.total * self.rate


@contextmanager
def opened(video: Video, default_fps: float, sample: Sampler) -> Iterator[Clip]:
    """The clip of a video; its frames can be read inside the `with`.

    Args:
        video: in any form.
        default_fps: of given frames whose rate is not said.
        sample: chooses frames.

    Raises:
        VideoError: the video is missing, broken or empty, its frames differ in size, or cannot be sampled as asked.
        PictureError: a given frame cannot be read. MissingExtraError: PyAV is not installed.
    """
    if isinstance(video.source, (np.ndarray, list, tuple)):
        yield _given(video, default_fps, sample)
        return
    av, place, name = _av(), locate(video.source, "video", VideoError), name_of(video.source)
    try:
        with av.open(place if isinstance(place, io.BytesIO) else str(place)) as container:
            yield _decoded(container, video, name, sample)
    except av.FFmpegError as error:
        raise VideoError(f"video {name} cannot be decoded: {error}. Save it again, as MP4 for instance.") from error


def _given(video: Video, default_fps: float, sample: Sampler) -> Clip:
    """Frames from a list or an array: all of them, unless fewer are asked for."""
    source = video.source
    if isinstance(source, np.ndarray) and (source.ndim != 4 or source.dtype != np.uint8 or source.shape[3] != 3):
        raise VideoError(
            f"an array of frames must be uint8 [T, height, width, 3], got {source.dtype} {list(source.shape)}."
        )
    if len(source) == 0:
        raise VideoError("a video must have frames, got none.")
    rate, total = video.fps or default_fps, len(source)
    indices = range(total) if video.num_frames is None else sample(total, rate, video)
    frames = [open_picture(source[i]).convert("RGB") for i in indices]
    for frame in frames:
        if frame.size != frames[0].size:
            raise VideoError(f"frames must have one size, got {frames[0].size} and {frame.size}. Resize them first.")
    return Clip(iter(frames), frames[0].size, tuple(indices), total, rate)


def _decoded(container: Any, video: Video, name: str, sample: Sampler) -> Clip:
    if not container.streams.video:
        raise VideoError(f"{name} has no video stream, only: {[s.type for s in container.streams]}. Give a video.")
    stream = container.streams.video[0]
    total = stream.frames or _count(container, stream)
    rate = stream.average_rate or stream.guessed_rate
    if not total or not rate:
        raise VideoError(f"video {name} has {total} frames at {rate} a second: nothing to look at. Save it again.")
    indices = tuple(int(i) for i in sample(total, float(rate), video))
    frames = _frames(container, stream, indices, name)
    first = next(frames)  # its size, upright, is what counts

    def all_frames() -> Iterator[Image.Image]:
        yield first
        yield from frames

    return Clip(all_frames(), first.size, indices, total, float(rate))


def _count(container: Any, stream: Any) -> int:
    """Frames of a container that does not say how many it has (Matroska, WebM): its packets, undecoded."""
    count = sum(1 for packet in container.demux(stream) if packet.size)
    container.seek(0)
    return count


def _frames(container: Any, stream: Any, indices: Sequence[int], name: str) -> Iterator[Image.Image]:
    """Frames by index, each as often as it is wanted."""
    wanted, number = iter(indices), -1
    index = next(wanted, None)
    for number, frame in enumerate(container.decode(stream)):
        if index is None:
            return
        if number < index:
            continue
        picture = frame.to_image()
        if frame.rotation:
            picture = picture.rotate(frame.rotation, expand=True)
        while number == index:
            yield picture
            index = next(wanted, None)
    if index is not None:
        raise VideoError(
            f"video {name} ends after {number + 1} frames, and frame {index} is needed: it is cut off, or says that it "
            "is longer than it is. Save it again."
        )


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise MissingExtraError(
            "a video file needs PyAV. Run: pip install 'tte-runtime[video]' (or: pip install av)."
        ) from error
    return av
