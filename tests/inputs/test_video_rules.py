"""Which frames, how large, when, and which pixels: the numbers of transformers' own video processors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from tte_runtime.errors import CheckpointError, VideoError
from tte_runtime.inputs.items import Video
from tte_runtime.inputs.media import MediaReader
from tte_runtime.inputs.video_rules import VideoRules, read_video_config
from tte_runtime.inputs.videos import Clip

SMALL = {"shortest_edge": 3136, "longest_edge": 50_000}
CAPPED = {
    "size": {"shortest_edge": 4096, "longest_edge": 200_000},
    "cap_pixels_per_frame": True,
    "max_video_tokens": 40,
}
SHAPES = [
    ({"size": SMALL}, (7, 60, 90, 3)),
    ({"size": SMALL}, (1, 61, 33, 3)),
    ({}, (4, 240, 320, 3)),
    (CAPPED, (9, 40, 500, 3)),
    ({"size": {"shortest_edge": 3136, "longest_edge": 10**7}}, (2, 112, 224, 3)),
]
SAMPLES = [
    (total, rate, fps, num_frames)
    for total, rate in ((2, 30.0), (5, 1.0), (47, 29.97), (300, 24.0), (1999, 25.0), (7, 3.5))
    for fps, num_frames in ((2.0, None), (0.7, None), (24.0, None), (None, 2), (None, 5))
    if (num_frames or 0) <= total
]
PATCH = {"qwen2_vl": 14, "qwen3_vl": 16}


def all_cases() -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = []
    for family in PATCH:
        cases += [{"family": family, "config": config, "shape": shape} for config, shape in SHAPES]
        for total, rate, fps, num_frames in SAMPLES:
            # A class attribute of Qwen3-VL's processor goes before `num_frames=None`, but not before a number.
            known = {"fps": None} if num_frames else {}
            case = {"family": family, "config": known, "total": total, "rate": rate, "fps": fps}
            cases.append({**case, "num_frames": num_frames})
    return [case for case in cases if case.get("shape", (2,))[0] > 1 or case["family"] == "qwen2_vl"]


def reader(folder: Path, case: dict[str, Any]) -> MediaReader:
    mean, std = (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD) if case["family"] == "qwen2_vl" else ([0.5] * 3, [0.5] * 3)
    picture = {"image_processor_type": "Qwen2VLImageProcessor", "image_mean": mean, "image_std": std}
    picture |= {"patch_size": PATCH[case["family"]], "merge_size": 2, "temporal_patch_size": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(picture))
    (folder / "video_preprocessor_config.json").write_text(json.dumps(case["config"]))
    text, vision = SimpleNamespace(max_position_embeddings=10**6), SimpleNamespace()
    return MediaReader(folder, SimpleNamespace(model_type=case["family"], text_config=text, vision_config=vision))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "cases.json").write_text(json.dumps(all_cases()))
    program = Path(__file__).with_name("transformers_videos.py")
    words = [sys.executable, program, folder / "cases.json", folder / "out.npz"]
    done = subprocess.run(words, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "out.npz"))


def test_pixels(theirs: dict[str, np.ndarray], tmp_path: Path) -> None:
    num_compared = 0
    for number, case in enumerate(all_cases()):
        if "shape" not in case or f"{number}" not in theirs:
            continue
        num_compared += 1
        video = np.random.default_rng(number).integers(0, 255, case["shape"], dtype=np.uint8)
        shown = reader(tmp_path, case).read(Video(video, fps=2.0))
        t, h, w = theirs[f"{number}.grid"]
        assert sum(patches.grid[0] for patches in shown.patches) == t
        assert {patches.grid[1:] for patches in shown.patches} == {(h, w)}
        pixels = torch.cat([patches.pixels for patches in shown.patches]).numpy()
        # The resized bytes are equal; how they become floats differs by rounding between image processors.
        np.testing.assert_allclose(pixels, theirs[f"{number}"], atol=1e-6, err_msg=str(case))
    assert num_compared >= 7


def test_frames_and_times(theirs: dict[str, np.ndarray], tmp_path: Path) -> None:
    num_compared = 0
    for number, case in enumerate(all_cases()):
        if "shape" in case:
            continue
        rules = reader(tmp_path, case).rules
        video = Video("a.mp4", fps=case["fps"], num_frames=case["num_frames"])
        indices = rules.sample(case["total"], case["rate"], video)
        assert list(indices) == theirs[f"{number}"].tolist(), case
        clip = Clip(iter(()), (1, 1), tuple(indices), case["total"], case["rate"])
        assert clip.fps == theirs[f"{number}.fps"]
        assert rules.seconds(indices, case["rate"]) == theirs[f"{number}.times"].tolist()
        num_compared += 1
    assert num_compared > 40


def test_too_few_frames(tmp_path: Path) -> None:
    for family in PATCH:
        rules = reader(tmp_path, {"family": family, "config": {}}).rules
        assert list(rules.sample(1, 30.0, Video("a.mp4"))) == [0]
        with pytest.raises(VideoError, match="num_frames is 9, and the video has 4 frames"):
            rules.sample(4, 30.0, Video("a.mp4", num_frames=9))


def test_where_limits_are_read_from(tmp_path: Path) -> None:
    assert read_video_config(tmp_path) == {}
    for name, entry in (
        ("preprocessor_config.json", {"min_pixels": 1000, "max_pixels": 2000}),
        ("video_preprocessor_config.json", {"size": {"shortest_edge": 3000, "longest_edge": 4000}, "fps": 1}),
        ("processor_config.json", {"video_processor": {"size": {"shortest_edge": 5000, "longest_edge": 6000}}}),
    ):
        (tmp_path / name).write_text(json.dumps(entry))
        rules = VideoRules.of(tmp_path, SimpleNamespace(model_type="qwen2_vl"), 28, 2)
        low = next(iter(entry.values()))
        assert rules.min_pixels in (1000, 3000, 5000) and str(rules.min_pixels) in json.dumps(low)
        assert rules.max_pixels == rules.min_pixels + 1000
    (tmp_path / "processor_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="no JSON object"):
        read_video_config(tmp_path)
