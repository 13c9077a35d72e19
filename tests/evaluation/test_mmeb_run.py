"""A run over small data of every kind: scores are those of the vectors, kills are survived, bad data is named."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmeb_data import draw, small_mmeb, write_rows

from tte_runtime import Embedder
from tte_runtime.errors import DatasetError, IndexFileError, MissingExtraError, OptionError
from tte_runtime.evaluation.mmeb.catalogue import DATASETS
from tte_runtime.evaluation.mmeb.load import choose_datasets, read_task
from tte_runtime.evaluation.mmeb.report import leaderboard_json, table
from tte_runtime.evaluation.mmeb.run import evaluate_mmeb
from tte_runtime.evaluation.mmeb.scoring import Score
from tte_runtime.evaluation.mmeb.vectors import How
from tte_runtime.index.store import read_entries

AT_ONCE = How(think=False)
NAMES = ["HatefulMemes", "MSR-VTT", "ViDoRe_docvqa"]
METRICS = ["hit@1", "hit@1", "ndcg_linear@5"]
IMAGES = "ziyjiang/MMEB_Test_Instruct"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_mmeb(tmp_path_factory.mktemp("mmeb"))


def run(embedder: Any, data: Path, out: Path, **options: Any) -> dict[str, Score]:
    found = evaluate_mmeb(embedder, data, choose_datasets(data), out, how=AT_ONCE, **options)
    scores = {dataset.name: outcome for dataset, outcome in found.items() if isinstance(outcome, Score)}
    assert len(scores) == len(found)
    return scores


def by_hand(embedder: Embedder, data: Path, name: str) -> list[dict[str, float]]:
    """Cosines of every query with its candidates, by name, straight from the embedder."""
    task = read_task(data, DATASETS[name])
    found = []
    for query in task.queries:
        names = list(query.candidates or task.candidates)
        vector = embedder.encode_query(query.request.item(False), think=False)
        others = embedder.encode_document([task.candidates[name].item(False) for name in names], think=False)
        found.append(dict(zip(names, (others @ vector).tolist(), strict=True)))
    return found


def test_scores_are_those_of_the_vectors(tiny: Embedder, data: Path, tmp_path: Path) -> None:
    scores = run(tiny, data, tmp_path / "out")
    assert list(scores) == NAMES
    for name in NAMES[:2]:
        labels = [next(iter(query.labels)) for query in read_task(data, DATASETS[name]).queries]
        hits = [
            max(row, key=row.__getitem__) == label for row, label in zip(by_hand(tiny, data, name), labels, strict=True)
        ]
        assert scores[name].metrics["hit@1"] == pytest.approx(np.mean(hits))
    gains = [{"10": 1.0, "11": 2.0}, {"12": 2.0}]
    wanted = []
    for row, labels in zip(by_hand(tiny, data, "ViDoRe_docvqa"), gains, strict=True):
        ranked = [labels.get(page, 0.0) for page in sorted(row, key=row.__getitem__, reverse=True)]
        discounts = 1 / np.log2(np.arange(2, 7))
        wanted.append(np.dot(ranked, discounts) / np.dot(sorted(ranked, reverse=True), discounts))
    assert scores["ViDoRe_docvqa"].metrics["ndcg_linear@5"] == pytest.approx(np.mean(wanted))
    written = json.loads((tmp_path / "out/image/HatefulMemes_score.json").read_text())
    assert written == scores["HatefulMemes"].metrics | {"num_pred": 3, "num_data": 3}


def test_the_leaderboards_file_has_every_dataset_and_says_how_it_was_made(
    tiny: Embedder, data: Path, tmp_path: Path
) -> None:
    outcomes = evaluate_mmeb(tiny, data, choose_datasets(data), tmp_path, how=AT_ONCE, limit=2)
    report = leaderboard_json(outcomes, "tte-tiny", 192, {"limit": 2})
    assert {modality: len(entries) for modality, entries in report["metrics"].items()} == {
        "image": 36,
        "video": 18,
        "visdoc": 24,
    }
    assert report["metrics"]["visdoc"]["ViDoSeek-page-fixed"] == "FILE_N/A"
    assert report["metrics"]["image"]["HatefulMemes"]["num_pred"] == 2
    assert report["metadata"]["tte_runtime"] == {"limit": 2, "failed_items": {}}
    lines = table(outcomes, limit=2)
    values = [100 * outcomes[DATASETS[name]].metrics[metric] for name, metric in zip(NAMES, METRICS, strict=True)]  # type: ignore[union-attr]
    (whole,) = (line.split() for line in lines if line.startswith("MMEB-V2"))
    assert whole == ["MMEB-V2", f"{np.mean(values):.1f}", "3", "of", "78"]
    assert any(line.split() == ["video", "RET", f"{values[1]:.1f}", "1", "of", "5"] for line in lines)
    assert "no score of MMEB-V2" in lines[-1]


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from tte_runtime.evaluation.mmeb import vectors
from tte_runtime.evaluation.mmeb.load import choose_datasets
from tte_runtime.evaluation.mmeb.run import evaluate_mmeb
from tte_runtime.recipes.registry import RECIPES

class Result:
    trace = ""
    def __init__(self, item):
        self.vector = np.random.default_rng(len(str(item["text"]))).standard_normal(8).astype(np.float32)

class Fake:
    fingerprint, embedding_dim, recipe = "f", 8, RECIPES["last_token"].make()
    blocks = 0
    def embed(self, items, **options):
        self.blocks += 1
        if self.blocks > int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        print(*(item["text"] for item in items), sep="\\n", flush=True)
        return [Result(item) for item in items]

vectors.BLOCK = 2
data, out = map(Path, sys.argv[1:3])
evaluate_mmeb(Fake(), data, choose_datasets(data, ["HatefulMemes"]), out)
"""


def test_a_killed_run_goes_on_where_it_was(data: Path, tmp_path: Path) -> None:
    def embedded(out: str, blocks: int) -> tuple[int, list[str]]:
        words = [sys.executable, "-c", KILLED, str(data), str(tmp_path / out), str(blocks)]
        done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        return done.returncode, done.stdout.splitlines()

    assert embedded("whole", 99) == (0, ["Which is it?"] * 3 + ["cat", "dog", "car", "pizza"])
    code, first = embedded("killed", 3)
    assert (code, first) == (-9, ["Which is it?"] * 3 + ["cat", "dog"])
    with (tmp_path / "killed/image/HatefulMemes_tgt/vectors.f32").open("ab") as file:
        file.write(b"half")  # what a kill in the middle of a write leaves
    assert embedded("killed", 1) == (0, ["car", "pizza"])
    scores = [(tmp_path / out / "image/HatefulMemes_score.json").read_text() for out in ("whole", "killed")]
    assert scores[0] == scores[1]


def test_an_out_folder_of_another_way_to_embed_is_refused(tiny: Embedder, data: Path, tmp_path: Path) -> None:
    run(tiny, data, tmp_path, limit=1)
    with pytest.raises(IndexFileError, match="think=False, not None"):
        evaluate_mmeb(tiny, data, choose_datasets(data), tmp_path, limit=1)


def test_a_missing_picture_is_a_miss_and_is_tried_again(tiny: Embedder, tmp_path: Path) -> None:
    data, out = small_mmeb(tmp_path / "data"), tmp_path / "out"
    lost = [data / "image-tasks/m/cat.png", data / "visdoc-tasks/ViDoRe_docvqa/12.png"]
    whole = run(tiny, data, tmp_path / "whole")
    for path in lost:
        path.unlink()
    scores = run(tiny, data, out)
    assert list(scores["HatefulMemes"].failed) == ["query 0"]
    assert str(lost[0]) in scores["HatefulMemes"].failed["query 0"]
    assert list(scores["ViDoRe_docvqa"].failed) == ["candidate 12"]
    assert scores["ViDoRe_docvqa"].metrics["recall@10"] == 0.5, "page 12 is the only answer of one of two queries"
    assert json.loads((out / "image/HatefulMemes_failed.json").read_text()) == scores["HatefulMemes"].failed
    assert scores["MSR-VTT"] == whole["MSR-VTT"]
    draw(lost[0], "cat"), draw(lost[1], "dog")
    again = run(tiny, data, out)
    assert {name: score.metrics for name, score in again.items()} == {name: s.metrics for name, s in whole.items()}
    assert not (out / "image/HatefulMemes_failed.json").exists()


def test_a_changed_picture_is_embedded_again(tiny: Embedder, tmp_path: Path) -> None:
    data = small_mmeb(tmp_path / "data")
    run(tiny, data, tmp_path / "out")
    store = tmp_path / "out/image/HatefulMemes_qry"
    before = read_entries(store, tiny.embedding_dim)
    draw(data / "image-tasks/m/cat.png", "owl", side=84)
    run(tiny, data, tmp_path / "out")
    after = read_entries(store, tiny.embedding_dim)
    assert [name for name in before if before[name] != after[name]] == ["0"]


def broken_line(data: Path) -> None:
    with (data / IMAGES / "HatefulMemes/test-00000-of-00001.jsonl").open("a") as file:
        file.write('{"qry_inst": ')


def no_column(data: Path) -> None:
    write_rows(data / IMAGES, [{"qry_text": "x"}], subset="HatefulMemes")


def wrong_type(data: Path) -> None:
    write_rows(data / IMAGES, [{"qry_text": "x", "tgt_text": "cat"}], subset="HatefulMemes")


def uneven(data: Path) -> None:
    row = {"qry_text": "x", "tgt_text": ["a", "b"], "tgt_img_path": ["a.png"]}
    write_rows(data / IMAGES, [row], subset="HatefulMemes")


def broken_parquet(data: Path) -> None:
    file = data / IMAGES / "HatefulMemes/test-00000-of-00001.jsonl"
    file.with_suffix(".parquet").write_bytes(b"PAR1 and no more")
    file.unlink()


def no_rows(data: Path) -> None:
    (data / IMAGES / "HatefulMemes/test-00000-of-00001.jsonl").write_text("\n")


def half_a_character(data: Path) -> None:
    file = data / IMAGES / "HatefulMemes/test-00000-of-00001.jsonl"
    file.write_text(file.read_text().replace('"cat", "dog", "car"', '"cat\\ud83d"'))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (half_a_character, r"line 1: 'tgt_text' has half a surrogate pair, .* in 'cat\\ud83d'\. Remove it"),
        (broken_line, r"jsonl, line 4 is no JSON \(.*\)\. Download the file again"),
        (no_column, r"line 1 has no column 'tgt_text', only 'qry_text'.*docs/evaluation\.md"),
        (wrong_type, r"'tgt_text' must be a list of texts with at least one, got 'cat'"),
        (uneven, "2 tgt_text and 1 tgt_img_path; there must be as many"),
        (broken_parquet, r"parquet cannot be read as Parquet: .*Download it again"),
        (no_rows, "HatefulMemes: .* has no rows"),
    ],
)
def test_a_broken_dataset_is_named_and_leaves_the_others_alone(
    tiny: Embedder, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    data = small_mmeb(tmp_path / "data")
    damage(data)
    with pytest.raises(DatasetError, match=said):
        read_task(data, DATASETS["HatefulMemes"])
    chosen = choose_datasets(data, ["HatefulMemes", "MSR-VTT"])
    first, second = evaluate_mmeb(tiny, data, chosen, tmp_path / "out", how=AT_ONCE).values()
    assert isinstance(first, DatasetError)
    assert isinstance(second, Score)


def test_other_bad_data_is_named_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetError, match=r"nowhere is no folder\. Give the folder"):
        choose_datasets(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="has no dataset of MMEB-V2"):
        choose_datasets(tmp_path)
    with pytest.raises(OptionError, match=r"unknown dataset 'HatefulMeme'\. Known: ImageNet-1K, "):
        choose_datasets(tmp_path, ["HatefulMeme"])
    with pytest.raises(
        DatasetError, match="vidore/arxivqa_test_subsampled_beir has no annotations of 'qrels' for split"
    ):
        read_task(tmp_path, DATASETS["ViDoRe_arxivqa"])
    write_rows(tmp_path / "VLM2Vec/Kinetics-700", [{"video_id": "v", "pos_text": "wave"}])
    with pytest.raises(DatasetError, match=r"labels\.txt with one a line cannot be read"):
        read_task(tmp_path, DATASETS["K700"])
    write_rows(tmp_path / "VLM2Vec/QVHighlight", [{"query": "x", "video_path": "v.mp4"}])
    with pytest.raises(DatasetError, match='whose name begins with "positive"'):
        read_task(tmp_path, DATASETS["QVHighlight"])
    file = write_rows(tmp_path / "VLM2Vec/MSVD", [])
    for head, said in (("a: [", "is no YAML"), ("configs: 3", "must be a list of configurations")):
        (tmp_path / "VLM2Vec/MSVD/README.md").write_text(f"---\n{head}\n---\n")
        with pytest.raises(DatasetError, match=said):
            read_task(tmp_path, DATASETS["MSVD"])
    (tmp_path / "VLM2Vec/MSVD/README.md").unlink()
    file.rename(file.with_suffix(".parquet"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tte-runtime\[mmeb\]'"):
        read_task(tmp_path, DATASETS["MSVD"])
