"""Positions of prompts with pictures and videos in them: those of transformers' `get_rope_index`, family by family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import AutoConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

from tte_runtime.models.rope import mrope_positions

MODELS = {"qwen2_vl": Qwen2VLModel, "qwen2_5_vl": Qwen2_5_VLModel, "qwen3_vl": Qwen3VLModel}
PER_SECOND = 3
CUTS_SECONDS = Version(transformers.__version__) < Version("5.18")  # to whole ones, which the authors' code never did

# Parts of a prompt: tokens of text, a picture's (h, w) in patches, a video's (t, h, w, seconds a temporal patch).
PROMPTS: list[list[Any]] = [
    [4, (3, 4, 6, 1.0), 2],
    [(1, 8, 2, 0.5)],
    [2, (4, 6), 3, (5, 2, 4, 2 / 24), 1, (2, 2), 4],
    [1, (7, 4, 4, 0.37), 1, (2, 6, 8, 1.9), 1, (12, 2), 2, (9, 2, 2, 1.0)],
]


@pytest.fixture(scope="module", params=list(MODELS))
def model(request: pytest.FixtureRequest) -> Any:
    text = {
        "num_hidden_layers": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 1,
        "vocab_size": 8,
    }
    text |= {"num_key_value_heads": 1, "head_dim": 16, "rope_parameters": {"rope_theta": 10.0, "rope_type": "default"}}
    text["rope_parameters"]["mrope_section"] = [2, 3, 3]
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 1, "intermediate_size": 16}
    if request.param == "qwen2_5_vl":
        vision["tokens_per_second"] = PER_SECOND
    config = AutoConfig.for_model(request.param, text_config=text, vision_config=vision)
    with torch.device("meta"):
        return MODELS[request.param](config)


@pytest.mark.parametrize("parts", PROMPTS)
def test_pictures_and_videos_in_one_prompt(model: Any, parts: list[Any]) -> None:
    family = model.config.model_type
    kinds: list[int] = []
    spans: list[tuple[int, tuple[int, int, int], float]] = []
    grids: dict[int, list[tuple[int, int, int]]] = {1: [], 2: []}
    seconds: list[float] = []
    for part in parts:
        if isinstance(part, int):
            kinds += [0] * part
            continue
        t, h, w = (1, *part) if len(part) == 2 else part[:3]
        kind = 1 if len(part) == 2 else 2
        if kind == 2 and CUTS_SECONDS:
            part = (*part[:3], float(round(part[3] + 0.5)))
        grids[kind].append((t, h, w))
        interval = 1.0
        if kind == 2:
            seconds.append(part[3])
            interval = PER_SECOND * part[3] if family == "qwen2_5_vl" else 1.0
        split = t if kind == 2 and family == "qwen3_vl" else 1  # there a time stands before every temporal patch
        for _ in range(split):
            kinds += [0, 0] if split > 1 else []
            spans.append((len(kinds), (t // split, h // 2, w // 2), interval))
            kinds += [kind] * (t // split * h * w // 4)
    timing = {"second_per_grid_ts": torch.tensor(seconds)} if family == "qwen2_5_vl" else {}
    length = len(kinds)
    kinds += [0] * 5  # what is written after the prompt
    theirs, _ = model.get_rope_index(
        torch.zeros(1, len(kinds), dtype=torch.long),
        torch.tensor([kinds]),
        image_grid_thw=torch.tensor(grids[1]) if grids[1] else None,
        video_grid_thw=torch.tensor(grids[2]) if grids[2] else None,
        **timing,
    )
    ours, delta = mrope_positions(length, spans)
    after = torch.arange(length, len(kinds)).expand(3, -1) + delta
    assert torch.equal(torch.cat([ours, after], dim=1), theirs[:, 0])
