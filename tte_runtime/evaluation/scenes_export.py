"""The held-out scenes as image datasets of MMEB's layout, one a kind, so that other models can be asked them.

VLM2Vec's own parsers, started in the folder, read them unchanged, and so does `tte eval mmeb`. They know candidates
that are texts or that are pictures, never both in one list; so each kind is asked among all documents of the pool that
are of its answer's medium, fewer than in `evaluation/scenes.py`. Knows scenes and files; no model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tte_runtime.errors import OptionError
from tte_runtime.evaluation.mmeb.catalogue import IMAGE_REPO, IMAGE_ROOT
from tte_runtime.evaluation.scenes import Document, Test

README = """\
---
configs:
{configs}
---

# Held-out scenes of tte-runtime, in the layout of MMEB's image datasets

{num_queries} questions about boards of pictures; each row has its own list of candidates, the right one first. The
pictures in them are Twemoji, copyright 2020 Twitter, Inc and other contributors, CC-BY 4.0.

With tte-runtime: `tte eval mmeb . --out RESULTS --model MODEL`. With VLM2Vec's own code, started in this folder, so
that `{repo}` is found here and not on the hub:

    python VLM2VEC/eval.py --dataset_config scenes.yaml --data_basedir . --encode_output_path RESULTS \\
        --model_name MODEL --pooling eos --normalize true
"""


def export_scenes(folder: Path, tests: Sequence[Test], pool: Sequence[Document]) -> list[str]:
    """Write tests and pool into a new folder. Returns the names of the datasets.

    Raises:
        OptionError: the folder is there already and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OptionError(f"{folder} exists and is not empty. Give a new folder.")
    pictures = folder / IMAGE_ROOT / "scenes"
    annotations = folder / IMAGE_REPO
    pictures.mkdir(parents=True)
    annotations.mkdir(parents=True)
    shown = [_save(document.item, pictures / f"document_{i:05d}.png") for i, document in enumerate(pool)]
    rows: dict[str, list[dict[str, Any]]] = {}
    for index, test in enumerate(tests):
        path = _save(test.item, pictures / f"query_{index:05d}.png")
        row = _row(test, path, _candidates(test, pool, shown))
        rows.setdefault(f"scenes_{test.question.kind}", []).append(row)
    for name, entries in rows.items():
        (annotations / name).mkdir()
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        (annotations / name / "test.jsonl").write_text(lines, encoding="utf-8")
    configs = "\n".join(
        f"- config_name: {name}\n  data_files:\n  - split: test\n    path: {name}/test.jsonl" for name in rows
    )
    readme = README.format(configs=configs, num_queries=len(tests), repo=IMAGE_REPO)
    (folder / "README.md").write_text(readme.partition("---\n\n")[2], encoding="utf-8")
    (annotations / "README.md").write_text(readme, encoding="utf-8")
    (folder / "scenes.yaml").write_text("".join(_yaml(name, entries[0]) for name, entries in rows.items()), "utf-8")
    return list(rows)


def _save(item: dict[str, Any], path: Path) -> str:
    """Write an item's picture. Returns its path as rows have it; "" for an item without one."""
    if "image" not in item:
        return ""
    item["image"].save(path)
    return f"{path.parent.name}/{path.name}"


def _candidates(test: Test, pool: Sequence[Document], shown: Sequence[str]) -> list[tuple[str, str]]:
    """(text, path of the picture) of all documents of the answer's medium, the answer first."""
    answer = test.question.answer
    same = [i for i, document in enumerate(pool) if bool(shown[i]) == (answer.medium != "text")]
    same.sort(key=lambda i: pool[i].answer != answer)
    return [(pool[i].item.get("text", ""), shown[i]) for i in same]


def _row(test: Test, path: str, candidates: Sequence[tuple[str, str]]) -> dict[str, Any]:
    row: dict[str, Any] = {"qry_inst": "", "qry_text": test.item["text"]}
    if path:
        row["qry_img_path"] = path
    row |= {"tgt_inst": "", "tgt_text": [text for text, _ in candidates]}
    if candidates[0][1]:
        row["tgt_img_path"] = [shown for _, shown in candidates]
    return row


def _yaml(name: str, row: dict[str, Any]) -> str:
    """The entry of VLM2Vec's `--dataset_config` for a dataset, by what its rows are made of."""
    if "tgt_img_path" not in row:
        parser = "image_i2t"
    else:
        parser = "image_i2i_vg" if "qry_img_path" in row else "image_t2i"
    lines = (f"dataset_parser: {parser}", f"dataset_name: {name}", f"image_root: {IMAGE_ROOT}/", "eval_type: local")
    return "\n    ".join([f"{name}:", *lines]) + "\n"
