"""Every layout of MMEB-V2's data is read as VLM2Vec reads it: what is asked, against what, and what is right."""

from __future__ import annotations

import codecs
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from mmeb_data import Rows, draw, draw_frames, small_mmeb, write_rows
from pyarrow import parquet

from tte_runtime.evaluation.mmeb.catalogue import DATASETS, own
from tte_runtime.evaluation.mmeb.files import read_rows
from tte_runtime.evaluation.mmeb.load import PARSERS, choose_datasets, read_task
from tte_runtime.evaluation.mmeb.tasks import Request
from tte_runtime.evaluation.mmeb.videos import ANSWER, MVBENCH

FRAMES = Path("video-tasks/frames")


def test_the_catalogue_is_the_leaderboards() -> None:
    sizes = Counter((dataset.modality, dataset.group) for dataset in DATASETS.values())
    assert [*sizes.values()] == [10, 10, 12, 4, 5, 5, 5, 3, 10, 4, 6, 4]
    assert {dataset.parser for dataset in DATASETS.values()} == set(PARSERS)
    assert DATASETS["ViDoRe_tatdqa"].repo == "vidore/tatdqa_test_beir"
    assert DATASETS["ViDoRe_syntheticDocQA_energy"].repo == "vidore/syntheticDocQA_energy_test_beir"


def image_row(**values: Any) -> dict[str, Any]:
    return {"qry_inst": "<|image_1|>\nDo it.", "qry_text": " which? ", "qry_img_path": "q.jpg", **values}


def test_pictures_against_texts(tmp_path: Path) -> None:
    write_rows(tmp_path / own("x").repo, [image_row(tgt_text=["b", "a", "b"])], subset="ChartQA")
    task = read_task(tmp_path, DATASETS["ChartQA"])
    assert task.queries[0].request == Request("which?", "Do it.", {"image": tmp_path / "image-tasks/q.jpg"})
    assert (task.queries[0].labels, task.queries[0].candidates) == ({"b": 1.0}, ("b", "a"))
    assert task.candidates == {"b": Request("b"), "a": Request("a")}


def test_pictures_against_pictures_are_told_apart_by_their_captions(tmp_path: Path) -> None:
    row = image_row(tgt_inst="<|image_1|> Look.", tgt_text=['"left"', "right"], tgt_img_path=["p.jpg", "p.jpg"])
    write_rows(tmp_path / own("x").repo, [row], subset="RefCOCO-Matching")
    task = read_task(tmp_path, DATASETS["RefCOCO-Matching"])
    assert list(task.candidates) == ["p.jpg:left", "p.jpg:right"]
    assert task.candidates["p.jpg:left"] == Request('"left"', "Look.", {"image": tmp_path / "image-tasks/p.jpg"})
    assert task.queries[0].labels == {"p.jpg:left": 1.0}


def test_texts_against_pictures(tmp_path: Path) -> None:
    row = {
        "qry_inst": "Find it.",
        "qry_text": "a cat",
        "tgt_inst": "",
        "tgt_text": ["", ""],
        "tgt_img_path": ["a", "b"],
    }
    write_rows(tmp_path / own("x").repo, [row], subset="MSCOCO_t2i")
    task = read_task(tmp_path, DATASETS["MSCOCO_t2i"])
    assert task.queries[0].request == Request("a cat", "Find it.")
    assert task.candidates["b"] == Request("", "", {"image": tmp_path / "image-tasks/b"})


def test_videos_are_eight_frames_from_the_first_to_the_last_in_natural_order(tmp_path: Path) -> None:
    draw_frames(tmp_path / FRAMES / "video_cls/HMDB51/v1", ["cat"] * 12)
    draw_frames(tmp_path / FRAMES / "video_cls/HMDB51/v2", ["cat"] * 3)
    rows = [{"video_id": name, "pos_text": "wave"} for name in ("v1", "v2", "v3")]
    write_rows(tmp_path / "VLM2Vec/HMDB51", rows)
    (tmp_path / "VLM2Vec/HMDB51/labels.txt").write_text("dive\nwave\n")
    task = read_task(tmp_path, DATASETS["HMDB51"])
    shown: list[Any] = [query.request.media["video"] for query in task.queries]
    assert [frame.name for frame in shown[0]] == [f"frame_{i}.jpg" for i in (0, 1, 3, 4, 6, 7, 9, 11)]
    assert len(shown[1]) == 3
    assert shown[2] == tmp_path / FRAMES / "video_cls/HMDB51/v3", "what is not there fails by its name"
    assert list(task.candidates) == ["wave", "dive"]
    assert task.queries[0].candidates is None


QUESTIONS: list[tuple[str, str, dict[str, Any], str, str, dict[str, str], str]] = [
    (
        *("NExTQA", "MC", {"video": 7, "question": "Why?", "answer": 1, "qid": 0, "type": "C"}),
        *("7", "Why?\nOptions:\n(A) o0\n(B) o1\n(C) o2\n(D) o3\n(E) o4", {f"o{i}": f"o{i}" for i in range(5)}, "o1"),
    ),
    (
        *(
            "Video-MME",
            "",
            {"videoID": "a", "question": "What?", "options": ["A. A cat.", "B. Dr. No."], "answer": "B"},
        ),
        *("a", "What?\nA. A cat.\nB. Dr. No.", {"A. A cat.": "A cat", "B. Dr. No.": "Dr. No"}, "B. Dr. No."),
    ),
    (
        *("EgoSchema", "Subset", {"video_idx": "e", "question": "Q?", "option": ["A. x", "B. y"], "answer": "0"}),
        *("e", "Q?A. x B. y", {"A. x": "x", "B. y": "y"}, "A. x"),
    ),
    (
        *("ActivityNetQA", "", {"video_name": "n", "question": "is it a cat", "answer": "no"}),
        *("v_n", "is it a cat? (A) yes; (B) no.", {"yes": "yes", "no": "no"}, "no"),
    ),
]


@pytest.mark.parametrize(("name", "subset", "row", "video", "asked", "options", "right"), QUESTIONS)
def test_questions_about_videos(
    tmp_path: Path,
    name: str,
    subset: str,
    row: dict[str, Any],
    video: str,
    asked: str,
    options: dict[str, str],
    right: str,
) -> None:
    row = row | {f"a{i}": f"o{i}" for i in range(5)}
    frames = draw_frames(tmp_path / DATASETS[name].root / video, ["cat"])
    write_rows(tmp_path / DATASETS[name].repo, [row], subset=subset)
    task = read_task(tmp_path, DATASETS[name])
    assert task.queries[0].request == Request(asked, ANSWER, {"video": frames})
    assert task.queries[0].candidates == tuple(options)
    assert {option: request.text for option, request in task.candidates.items()} == options
    assert task.queries[0].labels == {right: 1.0}


def test_mvbench_is_twenty_files_and_a_limit_counts_over_them(tmp_path: Path) -> None:
    row = {"video": "v.mp4", "question": "Q?", "candidates": ["x", "y"], "answer": "y"}
    for subset in MVBENCH:
        write_rows(tmp_path / "VLM2Vec/MVBench", [row, row], split="train", subset=subset)
    task = read_task(tmp_path, DATASETS["MVBench"], limit=3)
    folders = [query.request.media["video"] for query in task.queries]
    root = tmp_path / FRAMES / "video_qa/MVBench"
    assert folders == [root / MVBENCH[0] / "v.mp4", root / MVBENCH[0] / "v.mp4", root / MVBENCH[1] / "v.mp4"]
    assert task.queries[0].request.text == "Q?\nOptions:\n(A) x\n(B) y"
    assert task.queries[0].labels == {"(B) y": 1.0}
    assert len(read_task(tmp_path, DATASETS["MVBench"]).queries) == 40


def test_actions_are_listed_with_the_right_one_among_them(tmp_path: Path) -> None:
    write_rows(tmp_path / "VLM2Vec/SmthSmthV2", [{"video_id": 3, "pos_text": "b", "neg_text": ["a", "b"]}])
    (query,) = read_task(tmp_path, DATASETS["SmthSmthV2"]).queries
    assert (query.candidates, query.labels) == (("a", "b"), {"b": 1.0})


CAPTIONS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("MSR-VTT", "test_1k", "test", {"video_id": "v", "video": "v.mp4", "caption": "cat"}),
    ("MSVD", "", "test", {"video_id": "v", "video": "v.avi", "caption": ["cat", "a cat"]}),
    ("DiDeMo", "", "test", {"video": "some/v.mp4", "caption": "cat"}),
    ("VATEX", "", "test", {"videoID": "v", "enCap": ["cat", "a cat"]}),
    ("YouCook2", "", "val", {"id": "v", "video_path": "x/v.mp4", "sentence": "cat"}),
]


@pytest.mark.parametrize(("name", "subset", "split", "row"), CAPTIONS)
def test_captions_against_all_videos(tmp_path: Path, name: str, subset: str, split: str, row: dict[str, Any]) -> None:
    frames = draw_frames(tmp_path / DATASETS[name].root / "v", ["cat"])
    write_rows(tmp_path / DATASETS[name].repo, [row], split, subset)
    task = read_task(tmp_path, DATASETS[name])
    assert (task.queries[0].request.text, task.queries[0].labels, task.queries[0].candidates) == (
        "cat",
        {"v": 1.0},
        None,
    )
    assert task.candidates["v"].media == {"video": frames}
    assert task.queries[0].request.instruction.endswith(":")


def test_moments_are_the_clips_beside_the_query(tmp_path: Path) -> None:
    root = tmp_path / FRAMES / "video_mret/Charades_STA/vid"
    for clip in ("query", "negative_10", "negative_9", "positive_0"):
        draw_frames(root / clip, ["cat"])
    write_rows(tmp_path / "VLM2Vec/Charades-STA", [{"query": "he waves", "video_path": "x/vid.mp4"}])
    task = read_task(tmp_path, DATASETS["Charades-STA"])
    assert task.queries[0].candidates == ("vid/negative_9", "vid/negative_10", "vid/positive_0")
    assert task.queries[0].labels == {"vid/positive_0": 1.0}
    assert task.queries[0].request.media == {"video": [root / "query/frame_0.jpg"]}


@pytest.mark.parametrize(
    ("shown", "media"),
    [
        ("", {}),
        ("a.jpg", {"image": FRAMES / "video_mret/MomentSeeker/query_a.jpg"}),
        ("m/a.mp4", {"video": FRAMES / "video_mret/MomentSeeker/video_frames/m_a"}),
    ],
)
def test_moment_seekers_ask_with_texts_pictures_and_clips(tmp_path: Path, shown: str, media: dict[str, Path]) -> None:
    clips = {"positive_frames": [{"output_path": "m/1.mp4"}], "negative_frames": [{"output_path": "m/2.mp4"}]}
    write_rows(tmp_path / "VLM2Vec/MomentSeeker", [{"query": "cat", "input_frames": shown, **clips}])
    (query,) = read_task(tmp_path, DATASETS["MomentSeeker"]).queries
    assert (query.candidates, query.labels) == (("m_1", "m_2"), {"m_1": 1.0})
    assert query.request.media == {kind: tmp_path / path for kind, path in media.items()}


def test_documents_have_graded_relevance_and_the_whole_corpus(tmp_path: Path) -> None:
    task = read_task(small_mmeb(tmp_path), DATASETS["ViDoRe_docvqa"])
    assert [query.labels for query in task.queries] == [{"10": 1.0, "11": 2.0}, {"12": 2.0}]
    assert sorted(task.candidates) == ["10", "11", "12", "13", "9"]
    assert task.candidates["9"].media == {"image": tmp_path / "visdoc-tasks/ViDoRe_docvqa/9.png"}


def test_pages_in_parquet_are_unpacked_under_the_names_that_vlm2vec_gives_them(tmp_path: Path) -> None:
    name = "a-very-long-name-of-a-page-" * 3 + ".png"
    page = draw(tmp_path / "page.png").read_bytes()
    repo = tmp_path / "openbmb/VisRAG-Ret-Test-ChartQA"

    def write(subset: str, rows: Rows) -> None:
        (repo / subset).mkdir(parents=True)
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), repo / subset / "train-00000-of-00001.parquet")

    write("queries", [{"query-id": "q", "query": "cat"}])
    write("qrels", [{"query-id": "q", "corpus-id": name, "score": 1}])
    write("corpus", [{"corpus-id": name, "image": {"bytes": page, "path": None}}])
    task = read_task(tmp_path, DATASETS["VisRAG_ChartQA"])
    path: Any = task.candidates[name].media["image"]
    assert path.read_bytes() == page
    assert path.parent == tmp_path / "visdoc-tasks/VisRAG_ChartQA"
    assert path.name.startswith(name[:50] + "_") and len(path.name) == 50 + 1 + 8 + 4


def test_the_readme_says_which_files_are_whose(tmp_path: Path) -> None:
    repo = tmp_path / "VLM2Vec/DiDeMo"
    write_rows(repo, [{"video": "wrong.mp4", "caption": "wrong"}])
    write_rows(repo / "elsewhere", [{"video": "v.mp4", "caption": "cat"}], split="all")
    head = "configs:\n- config_name: default\n  data_files:\n  - split: test\n    path: elsewhere/all*"
    (repo / "README.md").write_text(f"---\n{head}\n---\n# DiDeMo\n")
    assert read_task(tmp_path, DATASETS["DiDeMo"]).queries[0].request.text == "cat"


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    file = write_rows(tmp_path, [{"query": "cat"}])
    file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    assert [row.text("query") for row in read_rows([file])] == ["cat"]


def test_what_a_folder_has_is_found_in_the_order_of_the_leaderboard(tmp_path: Path) -> None:
    small_mmeb(tmp_path)
    write_rows(tmp_path / own("x").repo, [image_row(tgt_text=["a"])], subset="mine")
    assert [d.name for d in choose_datasets(tmp_path)] == ["HatefulMemes", "MSR-VTT", "ViDoRe_docvqa", "mine"]
    assert [d.modality for d in choose_datasets(tmp_path, ["mine"])] == ["own"]


def test_an_instruction_goes_where_the_recipe_has_a_place_for_it() -> None:
    request = Request("text", "Do it.")
    assert request.item(takes_instruction=True) == {"text": "text", "instruction": "Do it."}
    assert request.item(takes_instruction=False) == {"text": "Do it. text"}
    assert Request("text").item(takes_instruction=True) == {"text": "text", "instruction": None}
