"""The exported scenes are the scenes: `tte eval mmeb` on them finds what `evaluation/scenes.py` finds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tte_runtime import Embedder
from tte_runtime.errors import OptionError
from tte_runtime.evaluation.mmeb.load import choose_datasets, read_task
from tte_runtime.evaluation.mmeb.run import evaluate_mmeb
from tte_runtime.evaluation.mmeb.scoring import Score
from tte_runtime.evaluation.scenes import Document, evaluate_retrieval, make_pool, make_tests
from tte_runtime.evaluation.scenes import Test as Asked
from tte_runtime.evaluation.scenes_export import export_scenes
from tte_runtime.scenes.questions import KINDS

ANNOTATIONS = Path("ziyjiang/MMEB_Test_Instruct")


@pytest.fixture(scope="module")
def asked() -> tuple[list[Asked], list[Document]]:
    """A question of each kind, and a pool: the answers, which come first, some pictures and some texts."""
    tests = make_tests(1, seed=2)
    pool = make_pool(tests, seed=2, size=1)
    return tests, pool[:14] + pool[-30:-24]


def test_hit_at_1_is_that_of_the_scenes(
    tiny: Embedder, asked: tuple[list[Asked], list[Document]], tmp_path: Path
) -> None:
    tests, pool = asked
    names = [f"scenes_{kind}" for kind in ("two_step", "replace", "ground", "find")]
    export_scenes(tmp_path / "data", tests, pool)
    datasets = choose_datasets(tmp_path / "data", names)
    found = evaluate_mmeb(tiny, tmp_path / "data", datasets, tmp_path / "out")
    chosen = [test for test in tests if f"scenes_{test.question.kind}" in names]
    wanted: dict[str, float] = {}
    for text in (True, False):
        shown = [document for document in pool if ("text" in document.item) == text]
        right = [test for test in chosen if (test.question.answer.medium == "text") == text]
        wanted |= evaluate_retrieval(tiny, right, shown)
    for dataset, score in found.items():
        assert isinstance(score, Score) and not score.failed
        assert score.metrics["hit@1"] == wanted[dataset.name.removeprefix("scenes_")], dataset.name
    assert len(found) == 4


def test_every_kind_is_written_as_vlm2vec_reads_it(asked: tuple[list[Asked], list[Document]], tmp_path: Path) -> None:
    tests, pool = asked
    assert export_scenes(tmp_path, tests, pool) == [f"scenes_{kind}" for kind in KINDS]
    configs = yaml.safe_load((tmp_path / "scenes.yaml").read_text())
    parsers = {name.removeprefix("scenes_"): config["dataset_parser"] for name, config in configs.items()}
    texts = dict.fromkeys(("category", "ground", "describe"), "image_i2t")
    assert parsers == dict.fromkeys(KINDS, "image_i2i_vg") | texts | {"find": "image_t2i"}
    head = yaml.safe_load((tmp_path / ANNOTATIONS / "README.md").read_text().split("---")[1])
    assert [config["config_name"] for config in head["configs"]] == list(configs)
    datasets = {dataset.name: dataset for dataset in choose_datasets(tmp_path)}
    for test in tests:
        name = f"scenes_{test.question.kind}"
        row = json.loads((tmp_path / ANNOTATIONS / name / "test.jsonl").read_text())
        assert len(row.get("tgt_img_path", row["tgt_text"])) == len(row["tgt_text"])
        (query,) = read_task(tmp_path, datasets[name]).queries
        assert query.request.text == test.item["text"]
        if "image" in test.item:
            path = query.request.media["image"]
            assert isinstance(path, Path)
            np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(test.item["image"]))


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OptionError, match=r"exists and is not empty\. Give a new folder"):
        export_scenes(tmp_path, [], [])
