"""Videos of every family with a tower: timing moves what it should, and prompts are the stock processors' own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import WITH_TOWER, make_config, save, thinking
from packaging.version import Version
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.video_utils import VideoMetadata

from tte_runtime import Embedder
from tte_runtime.evaluation.plain import PlainEmbedder
from tte_runtime.inputs.items import parse_item

PROCESSORS: dict[str, Any] = {
    "qwen2_vl": Qwen2VLProcessor,
    "qwen2_5_vl": Qwen2_5_VLProcessor,
    "qwen3_vl": Qwen3VLProcessor,
}


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 255, shape, dtype=np.uint8)


@pytest.fixture(scope="module", params=WITH_TOWER)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("videos") / request.param, make_config(request.param))


def test_timing_against_plain_transformers(folder: Path) -> None:
    frames = noise(6, 60, 45, 3)
    rates: list[float] = [1.0, 0.4]
    if folder.name == "qwen2_5_vl" and Version(transformers.__version__) < Version("5.18"):
        rates = [1.0, 0.5]  # transformers cut seconds to whole ones there, which the authors' code never did
    items = [{"video": frames, "fps": fps, "images": [noise(70, 50, 3)], "text": "and then?"} for fps in rates]
    plain = PlainEmbedder.from_pretrained(folder, recipe=thinking())
    with Embedder.from_pretrained(folder, recipe=thinking(), max_prefill_tokens=9) as embedder:
        ours = [embedder.embed(item, role="query") for item in items]
    for item, result in zip(items, ours, strict=True):
        theirs = plain.embed(item, role="query")
        assert result.trace_ids == theirs.trace_ids
        assert np.abs(result.vector - theirs.vector).max() < 1e-5
    same = bool(np.abs(ours[0].vector - ours[1].vector).max() < 1e-5)
    assert same == (folder.name == "qwen2_vl")  # which does not see when things happen
    # Qwen2.5-VL's timing is part of the content, Qwen3-VL's stands in the prompt beside it.
    assert bool(ours[1].counts.vision) == (folder.name == "qwen2_5_vl")


def test_prompts_are_the_processors_own(folder: Path) -> None:
    with Embedder.from_pretrained(folder, recipe=thinking()) as embedder:
        renderer = embedder._pipeline.model.renderer
        item = parse_item({"video": noise(7, 60, 45, 3), "fps": 3.0})
        (shown,) = renderer._read(item)
    t, h, w = (sum(one.grid[0] for one in shown.patches), *shown.patches[0].grid[1:])
    metadata = VideoMetadata(total_num_frames=7, fps=3.0, frames_indices=list(range(7)))
    processor = PROCESSORS[folder.name]
    stock = SimpleNamespace(
        video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
        video_token="<|video_pad|>",
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
    )
    stock._calculate_timestamps = lambda *arguments: processor._calculate_timestamps(stock, *arguments)
    made = {"video_grid_thw": torch.tensor([[t, h, w]]), "video_metadata": [metadata]}
    assert shown.text == processor.replace_video_token(stock, made, 0)
    assert ("<0.2 seconds>" in shown.text) == (folder.name == "qwen3_vl")
