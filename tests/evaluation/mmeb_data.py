"""Small data sets in the layouts of MMEB-V2, made on the spot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tte_runtime.scenes.pictures import picture

Rows = Sequence[Mapping[str, Any]]


def write_rows(folder: Path, rows: Rows, split: str = "test", subset: str = "") -> Path:
    """Annotations as JSON Lines, where `datasets` finds them. Returns the file."""
    file = folder / subset / f"{split}-00000-of-00001.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def draw(path: Path, name: str = "cat", side: int = 56) -> Path:
    """A small picture, lossless whatever its name ends in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = Image.new("RGB", (side, side), "white")
    drawn.paste(picture(name).resize((side, side)).convert("RGB"))
    drawn.save(path, "PNG")
    return path


def draw_frames(folder: Path, names: Sequence[str]) -> list[Path]:
    """Frames of a video, in a folder of its own."""
    return [draw(folder / f"frame_{index}.jpg", name) for index, name in enumerate(names)]


def small_mmeb(folder: Path) -> Path:
    """A data set of each kind of pool: HatefulMemes (listed), MSR-VTT (a pool), ViDoRe_docvqa (qrels)."""
    listed = [
        {"qry_inst": "<|image_1|>\nWhich is it?", "qry_text": "", "qry_img_path": f"m/{name}.png", "tgt_text": texts}
        for name, texts in (("cat", ["cat", "dog", "car"]), ("dog", ["dog", "cat"]), ("pizza", ["pizza", "cat"]))
    ]
    write_rows(folder / "ziyjiang/MMEB_Test_Instruct", listed, subset="HatefulMemes")
    for name in ("cat", "dog", "pizza"):
        draw(folder / f"image-tasks/m/{name}.png", name)
    captions = [{"video_id": f"v{i}", "video": f"v{i}.mp4", "caption": name} for i, name in enumerate(("car", "owl"))]
    write_rows(folder / "VLM2Vec/MSR-VTT", captions, subset="test_1k")
    for index, name in enumerate(("car", "owl")):
        draw_frames(folder / f"video-tasks/frames/video_ret/MSR-VTT/v{index}", [name, name])
    pages = folder / "vidore/docvqa_test_subsampled_beir"
    write_rows(pages, [{"query-id": 1, "query": "cat"}, {"query-id": 2, "query": "dog"}], subset="queries")
    relevance = [(1, 10, 1), (1, 11, 2), (1, 12, 0), (2, 12, 1), (2, 12, 2)]
    qrels = [{"query-id": query, "corpus-id": page, "score": score} for query, page, score in relevance]
    write_rows(pages, qrels, subset="qrels")
    write_rows(pages, [{"corpus-id": page} for page in (9, 10, 11, 12, 13)], subset="corpus")
    for page, name in zip((9, 10, 11, 12, 13), ("car", "cat", "owl", "dog", "pizza"), strict=True):
        draw(folder / f"visdoc-tasks/ViDoRe_docvqa/{page}.png", name)
    return folder
