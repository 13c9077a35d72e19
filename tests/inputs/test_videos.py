"""Videos: every form is the same video, what cannot be looked at is refused, and plain transformers sees the same."""

from __future__ import annotations

import base64
import io
import struct
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tte_runtime import Embedder
from tte_runtime.errors import InputError, MissingExtraError, PictureError, VideoError
from tte_runtime.evaluation.plain import PlainEmbedder
from tte_runtime.inputs.items import Video
from tte_runtime.inputs.videos import opened


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 255, shape, dtype=np.uint8)


def encoded(
    frames: np.ndarray, rate: int = 4, container: str = "matroska", codec: str = "ffv1", **options: str
) -> bytes:
    """A video file; as FFV1 in Matroska it is lossless, and does not say how many frames it has."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return buffer.getvalue()


def sound() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="wav") as file:
        stream = file.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
    return buffer.getvalue()


def smooth(num_frames: int = 6) -> np.ndarray:
    """Frames that a lossy codec hardly changes: red grows to the right, green downwards."""
    frames = np.zeros((num_frames, 48, 64, 3), np.uint8)
    frames[..., 0] = 4 * np.arange(64)
    frames[..., 1] = 5 * np.arange(48)[:, None]
    return frames


def test_every_form_of_a_video_gives_the_same_bits(vectors_of: Any, tmp_path: Path) -> None:
    frames = noise(6, 60, 90, 3)
    path = tmp_path / "clip.MKV"
    path.write_bytes(encoded(frames))
    stills = []
    for i, frame in enumerate(frames):
        stills.append(tmp_path / f"{i}.png")
        Image.fromarray(frame).save(stills[-1])
    url = "data:video/x-matroska;base64," + base64.b64encode(path.read_bytes()).decode()
    forms: list[Any] = [
        frames,
        {"video": frames, "fps": 4},
        {"video": list(frames)},
        {"video": [Image.fromarray(frame) for frame in frames]},
        {"video": stills},
        {"video": path, "num_frames": 6},
        {"video": str(path), "fps": 100.0},  # all there are
        {"video": path.read_bytes(), "num_frames": 6},
        {"video": url, "num_frames": 6},
    ]
    vectors = vectors_of(forms)
    assert all(np.array_equal(vector, vectors[0]) for vector in vectors)


def test_a_file_is_sampled(vectors_of: Any, tmp_path: Path) -> None:
    frames = noise(24, 60, 90, 3)
    path = tmp_path / "clip.mkv"
    path.write_bytes(encoded(frames, rate=8))  # three seconds, of which two frames each are looked at
    for one, other in ((path, frames[::4]), ({"video": frames, "num_frames": 4}, frames[::6])):
        assert np.array_equal(*vectors_of([one, other]))


def test_a_video_filmed_upright_is_upright() -> None:
    data = bytearray(encoded(smooth(), container="mp4", codec="libx264"))
    matrix = data.index(b"tkhd") + 4 + 40  # of the track header (ISO 14496-12, 8.3.2)
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
    with opened(Video(bytes(data)), 2.0, lambda total, rate, video: range(total)) as clip:
        assert clip.size == (48, 64)
        shown = np.stack([np.asarray(frame) for frame in clip.frames]).astype(int)
    assert np.abs(shown - np.rot90(smooth(), -1, axes=(1, 2))).mean() < 3  # a quarter turn clockwise


@pytest.mark.parametrize(
    ("item", "kind", "message"),
    [
        ("nowhere.mp4", VideoError, "does not exist"),
        ({"video": b"no video"}, VideoError, "cannot be decoded.*Save it again"),
        ({"video": b""}, VideoError, "cannot be decoded"),
        ({"video": sound()}, VideoError, "no video stream, only: .*audio"),
        ({"video": encoded(smooth(), container="mp4", codec="libx264")[:-300]}, VideoError, "cannot be decoded"),
        ({"video": []}, VideoError, "must have frames, got none"),
        (np.zeros((0, 4, 4, 3), np.uint8), VideoError, "must have frames, got none"),
        (np.zeros((2, 30, 30, 3), np.float32), VideoError, r"uint8 \[T, height, width, 3\], got float32"),
        (np.zeros((2, 30, 30, 4), np.uint8), VideoError, "got uint8"),
        ({"video": [noise(30, 30, 3), noise(30, 31, 3)]}, VideoError, "one size, got .30, 30. and .31, 30."),
        ({"video": [noise(30, 30, 3), "gone.png"]}, PictureError, "does not exist"),
        ({"video": noise(3, 30, 30, 3), "num_frames": 4}, VideoError, "num_frames is 4, and the video has 3"),
        (noise(2, 1, 300, 3), VideoError, "300 x 1 pixels cannot be used"),
        (np.zeros((600, 112, 112, 3), np.uint8), VideoError, "tokens, and the model's context has 2048. Give a lower"),
        ({"video": "a.mp4", "fps": 1.0, "num_frames": 2}, InputError, "contradict"),
        ({"video": "a.mp4", "fps": 0}, InputError, "positive number of frames a second, got 0"),
        ({"video": "a.mp4", "fps": float("inf")}, InputError, "got inf"),
        ({"video": "a.mp4", "num_frames": 1.5}, InputError, "a number from 1, got 1.5"),
        ({"video": "a.mp4", "max_pixels": -1}, InputError, "a number from 1, got -1"),
        ({"video": 7}, InputError, "got int"),
        ({"fps": 2.0, "text": "x"}, InputError, 'there is no "video"'),
    ],
)
def test_bad_videos_harm_no_neighbour(tiny: Embedder, item: Any, kind: type[InputError], message: str) -> None:
    bad, good = tiny.embed([item, noise(2, 30, 30, 3)], role="document", think=False, errors="return")
    assert type(bad) is kind
    assert good.vector.shape == (192,)
    with pytest.raises(kind, match=message):
        raise bad


def test_a_file_that_ends_too_early() -> None:
    data = bytearray(encoded(noise(8, 48, 64, 3), container="avi"))
    struct.pack_into("<I", data, data.index(b"strh") + 40, 12)  # the header's dwLength: four frames more than there are
    with (
        pytest.raises(VideoError, match="ends after 8 frames, and frame 8 is needed"),
        opened(Video(bytes(data)), 2.0, lambda total, rate, video: range(total)) as clip,
    ):
        assert clip.total == 12
        list(clip.frames)


def test_without_pyav_the_install_command_is_named(tiny: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tte-runtime\[video\]'"):
        tiny.embed({"video": b"any"}, role="document", think=False)


def test_smaller_frames_make_fewer_tokens(tiny: Embedder) -> None:
    frames = noise(4, 112, 112, 3)
    whole, small = (
        tiny.embed({"video": frames, "max_pixels": most}, role="document", think=False).counts
        for most in (None, 56 * 56)
    )
    assert (whole.vision, small.vision) == (2 * 16, 2 * 4)


@pytest.mark.parametrize("passes", ["two", "one"])
def test_videos_against_plain_transformers(passes: Any) -> None:
    items = [
        {"video": noise(7, 60, 90, 3), "text": "what is it?"},
        {"video": noise(1, 33, 40, 3), "images": [noise(50, 40, 3), noise(28, 28, 3)]},
    ]
    plain = PlainEmbedder.from_pretrained("tte-tiny")
    with Embedder.from_pretrained("tte-tiny", max_prefill_tokens=7) as embedder:
        for item in items:
            ours = embedder.embed(item, role="query")
            theirs = plain.embed(item, role="query", passes=passes)
            assert ours.trace_ids == theirs.trace_ids
            assert np.abs(ours.vector - theirs.vector).max() < 1e-5
