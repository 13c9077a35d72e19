"""The video datasets: classification, questions with options, retrieval, moments. Media are folders of saved frames.

Columns, prompts and folders as in VLM2Vec's src/data/eval_dataset (one file a layout, named beside each function below)
and video_classification_utils.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from tte_runtime.errors import DatasetError
from tte_runtime.evaluation.mmeb.catalogue import Dataset
from tte_runtime.evaluation.mmeb.files import Row, read_rows
from tte_runtime.evaluation.mmeb.frames import video
from tte_runtime.evaluation.mmeb.tasks import Query, Request, Task, annotation_files, read_annotations

CLASSIFY = {
    "K700": "Recognize the category of the video content.",
    "SmthSmthV2": "What actions or object interactions are being performed by the person in the video?",
    "UCF101": "What activities or sports are being performed by the person in the video?",
    "HMDB51": "What actions or objects interactions are the person in the video doing?",
    "Breakfast": "Recognize the breakfast type that the person is cooking in the video.",
}
ANSWER = (
    "Given a video and a question, select the most accurate answer from the provided candidates. Return only the exact "
    "text of your chosen answer. Question:"
)
FIND = {
    "msrvtt": "Find a video that contains the following visual content:",
    "msvd": "Find the video snippet that corresponds to the given summary:",
    "didemo": "Find a video that includes the following described scenes:",
    "vatex": "Select a video that fits the description provided:",
    "youcook2": "Find a video that demonstrates the following action while making a recipe:",
}
UNDERSTAND = "Understand the content of the provided video."
MVBENCH = (
    "episodic_reasoning",
    "action_sequence",
    "action_prediction",
    "action_antonym",
    "fine_grained_action",
    "unexpected_action",
    "object_existence",
    "object_interaction",
    "object_shuffle",
    "moving_direction",
    "action_localization",
    "scene_transition",
    "action_count",
    "moving_count",
    "moving_attribute",
    "state_change",
    "fine_grained_pose",
    "character_order",
    "egocentric_navigation",
    "counterfactual_inference",
)


def classification_task(folder: Path, dataset: Dataset, limit: int | None) -> Task:
    """Frames against all labels of the dataset (video_classification_datasets.py); raises DatasetError."""
    root = folder / dataset.root
    queries = [
        Query(Request("", CLASSIFY[dataset.name], video(root / row.text("video_id"))), {row.text("pos_text"): 1.0})
        for row in read_annotations(folder, dataset, limit)
    ]
    asked = [label for query in queries for label in query.labels]
    return Task(dataset, queries, {label: Request(label) for label in [*asked, *_all_labels(folder, dataset)]})


def _all_labels(folder: Path, dataset: Dataset) -> list[str]:
    """Every label of a dataset, also those that no query has: they stand in VLM2Vec's code, not in its data."""
    file = folder / dataset.repo / "labels.txt"
    try:
        return [line for line in file.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{dataset.name} is ranked against all labels of its set, and {file} with one a line cannot be read: "
            f"{error}. docs/evaluation.md says how to write it."
        ) from error


def ssv2_task(folder: Path, dataset: Dataset, limit: int | None) -> Task:
    """Frames against labels listed in the row, the right one among them (ssv2_dataset.py); raises DatasetError."""
    rows = read_annotations(folder, dataset, limit)
    media = [video(folder / dataset.root / row.text("video_id")) for row in rows]
    requests = [Request("", CLASSIFY[dataset.name], frames) for frames in media]
    options = [{name: name for name in row.texts("neg_text")} for row in rows]
    return _with_options(dataset, requests, options, [row.text("pos_text") for row in rows])


# A question as (folder of its frames, question, options by name, name of the right one).
Question = tuple[str, str, dict[str, str], str]


def question_task(read: Callable[[Row], Question], folder: Path, dataset: Dataset, limit: int | None) -> Task:
    """Frames and a question against the texts of its options; raises DatasetError."""
    return _questions(folder, dataset, [read(row) for row in read_annotations(folder, dataset, limit)])


def mvbench_task(folder: Path, dataset: Dataset, limit: int | None) -> Task:
    """MVBench, whose twenty subsets have files and folders of frames of their own; raises DatasetError."""
    found: list[Question] = []
    for subset in MVBENCH:
        left = None if limit is None else limit - len(found)
        for row in read_rows(annotation_files(folder, dataset, subset), left):
            frames, asked, options, right = _mvbench(row)
            found.append((f"{subset}/{frames}", asked, options, right))
    return _questions(folder, dataset, found)


def _questions(folder: Path, dataset: Dataset, found: Sequence[Question]) -> Task:
    requests = [Request(asked, ANSWER, video(folder / dataset.root / frames)) for frames, asked, _, _ in found]
    return _with_options(dataset, requests, [entry[2] for entry in found], [entry[3] for entry in found])


def _mvbench(row: Row) -> Question:
    """mvbench_dataset.py."""
    options = row.texts("candidates")
    names = [f"({chr(ord('A') + index)}) {option}" for index, option in enumerate(options)]
    if row.text("answer") not in options:
        raise DatasetError(f"{row.where}: 'answer' must be one of {options}, got {row.text('answer')!r}.")
    right = names[options.index(row.text("answer"))]
    asked = "\n".join([row.text("question"), "Options:", *names])
    return row.text("video"), asked, {name: name for name in names}, right


def _nextqa(row: Row) -> Question:
    """nextqa_dataset.py."""
    options = [row.text(f"a{index}") for index in range(5)]
    lettered = [f"({letter}) {option}" for letter, option in zip("ABCDE", options, strict=True)]
    asked = "\n".join([row.text("question"), "Options:", *lettered])
    return row.text("video"), asked, {option: option for option in options}, row.choice("answer", options)


def _videomme(row: Row) -> Question:
    """videomme_dataset.py: options carry a letter, which is no part of the candidate; the answer is a letter."""
    options = row.texts("options")
    letter = row.text("answer")
    if letter not in tuple("ABCD"[: len(options)]):
        raise DatasetError(f"{row.where}: 'answer' must be the letter of one of {len(options)}, got {letter!r}.")
    asked = "\n".join([row.text("question"), *options])
    return row.text("videoID"), asked, _without_letters(options), options["ABCD".index(letter)]


def _egoschema(row: Row) -> Question:
    """egoschema_dataset.py."""
    options = row.texts("option")
    asked = row.text("question") + " ".join(options)
    return row.text("video_idx"), asked, _without_letters(options), row.choice("answer", options)


def _activitynetqa(row: Row) -> Question:
    """activitynetqa_dataset.py."""
    asked = row.text("question") + "? (A) yes; (B) no."
    return "v_" + row.text("video_name"), asked, {"yes": "yes", "no": "no"}, row.text("answer")


def _without_letters(options: Sequence[str]) -> dict[str, str]:
    """Texts of options such as "A. a cat." by the whole: "a cat"."""
    return {option: option[max(option.find(". "), 0) :].strip(". ") for option in options}


def _with_options(
    dataset: Dataset, requests: Sequence[Request], options: Sequence[dict[str, str]], right: Sequence[str]
) -> Task:
    """Queries with candidates of their own, given as texts by name."""
    candidates: dict[str, Request] = {}
    for texts in options:
        for name, text in texts.items():
            candidates.setdefault(name, Request(text))
    queries = [
        Query(request, {name: 1.0}, tuple(texts)) for request, texts, name in zip(requests, options, right, strict=True)
    ]
    return Task(dataset, queries, candidates)


# A caption as (name of the video, which is also its folder, caption).
CAPTIONS: dict[str, Callable[[Row], tuple[str, str]]] = {
    "msrvtt": lambda row: (row.text("video_id"), row.text("caption")),
    "msvd": lambda row: (row.text("video_id"), row.texts("caption")[0]),
    "didemo": lambda row: (Path(row.text("video")).stem, row.text("caption")),
    "vatex": lambda row: (row.text("videoID"), row.texts("enCap")[0]),
    "youcook2": lambda row: (row.text("id"), row.text("sentence")),
}


def retrieval_task(folder: Path, dataset: Dataset, limit: int | None) -> Task:
    """A caption against all videos of the dataset (msrvtt_dataset.py and four others); raises DatasetError."""
    found = [CAPTIONS[dataset.parser](row) for row in read_annotations(folder, dataset, limit)]
    queries = [Query(Request(caption, FIND[dataset.parser]), {name: 1.0}) for name, caption in found]
    names = dict.fromkeys(name for name, _ in found)
    root = folder / dataset.root
    return Task(dataset, queries, {name: Request("", UNDERSTAND, video(root / name)) for name in names})


QUESTIONS = {
    name: functools.partial(question_task, read)
    for name, read in (
        ("nextqa", _nextqa),
        ("videomme", _videomme),
        ("egoschema", _egoschema),
        ("activitynetqa", _activitynetqa),
    )
}
