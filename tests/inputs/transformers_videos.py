"""A program: what transformers' own video processors make of videos, for test_video_rules.py. Arguments: CASES OUT.

They need torchvision, which cannot be imported beside many a CPU build of torch. Then a stand-in is made of what they
call: `resize` is the call that torchvision makes for uint8 and bicubic, and `normalize` is its formula.
Everything else (sampling, sizes, patches, timestamps) is transformers' code.
"""

from __future__ import annotations

import enum
import importlib
import importlib.machinery
import importlib.metadata
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch


class InterpolationMode(enum.Enum):
    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


def resize(image: torch.Tensor, size: Any, interpolation: InterpolationMode, antialias: bool = True) -> torch.Tensor:
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    flat = image.flatten(0, -4)
    made = torch.nn.functional.interpolate(flat, tuple(size), mode=interpolation.value, antialias=antialias)
    return made.unflatten(0, image.shape[:-3])


def normalize(image: torch.Tensor, mean: Any, std: Any, inplace: bool = False) -> torch.Tensor:
    mean, std = (torch.as_tensor(values, dtype=image.dtype).view(-1, 1, 1) for values in (mean, std))
    return (image - mean) / std


def stand_in() -> None:
    """Make `import torchvision` give the functions above."""

    def module(name: str, **content: Any) -> types.ModuleType:
        made = types.ModuleType(name)
        made.__dict__.update(content, __path__=[], __spec__=importlib.machinery.ModuleSpec(name, None))
        sys.modules[name] = made
        return made

    modes = {"InterpolationMode": InterpolationMode}
    functional = {"resize": resize, "normalize": normalize, "grayscale_to_rgb": lambda image: image, **modes}
    functional["pil_to_tensor"] = None  # imported, never called here
    for name in ("transforms.v2.functional", "transforms.functional"):
        module(f"torchvision.{name}", **functional)
    inner = module("torchvision.transforms.v2", functional=sys.modules["torchvision.transforms.v2.functional"], **modes)
    outer = module("torchvision.transforms", v2=inner, **modes)
    module(
        "torchvision",
        __version__="0.28.0",
        transforms=outer,
        io=module("torchvision.io", __getattr__=lambda name: None),
    )
    version = importlib.metadata.version
    importlib.metadata.version = lambda name: "0.28.0" if name == "torchvision" else version(name)  # type: ignore[assignment]


def main(cases: str, out: str) -> None:
    try:
        importlib.import_module("torchvision")
    except Exception:
        stand_in()
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
    from transformers.video_utils import VideoMetadata

    classes = {"qwen2_vl": Qwen2VLVideoProcessor, "qwen3_vl": Qwen3VLVideoProcessor}
    arrays: dict[str, Any] = {}
    for number, case in enumerate(json.loads(Path(cases).read_text())):
        if "shape" in case and any(not hasattr(classes[case["family"]], name) for name in case["config"]):
            continue  # an option that this release does not know yet
        processor = classes[case["family"]](**case["config"])
        if "shape" in case:
            video = np.random.default_rng(number).integers(0, 255, case["shape"], dtype=np.uint8)
            made = processor(videos=[video], do_sample_frames=False, return_tensors="pt")
            arrays[f"{number}"] = made["pixel_values_videos"].numpy()
            arrays[f"{number}.grid"] = made["video_grid_thw"][0].numpy()
            continue
        metadata = VideoMetadata(total_num_frames=case["total"], fps=case["rate"])
        indices = np.asarray(processor.sample_frames(metadata, fps=case["fps"], num_frames=case["num_frames"]))
        metadata.frames_indices = indices.tolist()
        arrays[f"{number}"] = indices
        arrays[f"{number}.fps"] = np.asarray(metadata.sampled_fps)
        times = Qwen3VLProcessor._calculate_timestamps(None, indices.tolist(), case["rate"], 2)
        arrays[f"{number}.times"] = np.asarray(times)
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
