"""Frames of a video that were saved as pictures: in which order, and which of them are looked at. Opens none."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

SUFFIXES = (".jpg", ".jpeg", ".png")
NUM_FRAMES = 8  # of the up to 64 saved ones: num_frames in experiments/public/eval/video.yaml


def video(folder: Path, num_frames: int | None = NUM_FRAMES) -> dict[str, Path | list[Path]]:
    """The media of a video: `num_frames` of its frames, evenly spread from the first to the last; all for `None`.

    A folder without frames is given as it is, so that the request fails and its error names the folder.
    """
    files = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES] if folder.is_dir() else []
    files.sort(key=lambda path: natural(path.name))
    if num_frames is not None and len(files) > num_frames:
        files = [files[index] for index in np.linspace(0, len(files) - 1, num_frames, dtype=int)]
    return {"video": files or folder}


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts frame_10 behind frame_9."""
    return [(int(part), "") if part.isdigit() else (-1, part.lower()) for part in re.split(r"(\d+)", name)]
