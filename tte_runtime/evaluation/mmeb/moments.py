"""The moment datasets: which clip of a long video is meant. Clips are folders of saved frames.

Columns, prompts and folders as in VLM2Vec's moment_retrieval_datasets.py and momentseeker_dataset.py.
"""

from __future__ import annotations

from pathlib import Path

from tte_runtime.errors import DatasetError
from tte_runtime.evaluation.mmeb.catalogue import Dataset
from tte_runtime.evaluation.mmeb.files import Row
from tte_runtime.evaluation.mmeb.frames import natural, video
from tte_runtime.evaluation.mmeb.tasks import Query, Request, Task, picture, read_annotations

FIND = "Find the clip that corresponds to the described scene in the given video:"
UNDERSTAND = "Understand the content of the provided video."
SEEK_TEXT = "Find the clip that corresponds to the given text:"
SEEK_PICTURE = "Select the video clip that aligns with the given text and image:"
SEEK_VIDEO = "Find the clip that corresponds to the given sentence and video segment:"
UNDERSTAND_CLIP = "Understand the content of the provided video clip."


def moment_task(folder: Path, dataset: Dataset, limit: int | None) -> Task:
    """QVHighlight and Charades-STA; raises DatasetError.

    Of a video there are a folder "query" with frames of the whole, and one for each of its clips; the right one's name
    begins with "positive".
    """
    queries, candidates = [], dict[str, Request]()
    for row in read_annotations(folder, dataset, limit):
        place = folder / dataset.root / Path(row.text("video_path")).stem
        clips = [path for path in place.iterdir() if path.is_dir() and path.name != "query"] if place.is_dir() else []
        right = [clip for clip in clips if clip.name.startswith("positive")]
        if not right:
            raise DatasetError(
                f'{row.where}: {place} must hold a folder of frames whose name begins with "positive", and others. '
                "Unpack video_mret.tar.gz of TIGER-Lab/MMEB-V2 there."
            )
        names = {f"{place.name}/{clip.name}": clip for clip in sorted(clips, key=lambda clip: natural(clip.name))}
        for name, clip in names.items():
            candidates.setdefault(name, Request("", UNDERSTAND, video(clip)))
        request = Request(row.text("query"), FIND, video(place / "query"))
        queries.append(Query(request, {f"{place.name}/{right[-1].name}": 1.0}, tuple(names)))
    return Task(dataset, queries, candidates)


def seeker_task(folder: Path, dataset: Dataset, limit: int | None) -> Task:
    """MomentSeeker, whose queries are a text, a text with a picture, or a text with a clip; raises DatasetError."""
    root = folder / dataset.root
    queries, candidates = [], dict[str, Request]()
    for row in read_annotations(folder, dataset, limit):
        right, wrong = (_clips(row, column) for column in ("positive_frames", "negative_frames"))
        if not right:
            raise DatasetError(f"{row.where}: 'positive_frames' must name at least one clip.")
        for clip in [*right, *wrong]:
            candidates.setdefault(clip, Request("", UNDERSTAND_CLIP, video(root / "video_frames" / clip, None)))
        labels = dict.fromkeys(right, 1.0)
        queries.append(Query(_seeker_request(row, root), labels, tuple(dict.fromkeys([*right, *wrong]))))
    return Task(dataset, queries, candidates)


def _seeker_request(row: Row, root: Path) -> Request:
    text, shown = row.text("query"), row.text("input_frames", "")
    if shown.endswith(".mp4"):
        return Request(text, SEEK_VIDEO, video(root / "video_frames" / _folder(shown), None))
    if shown.endswith(".jpg"):
        return Request(text, SEEK_PICTURE, picture(root / f"query_{shown}"))
    return Request(text, SEEK_TEXT)


def _clips(row: Row, column: str) -> list[str]:
    entries = row.get(column)
    if not isinstance(entries, list) or not all(isinstance(e, dict) and "output_path" in e for e in entries):
        raise DatasetError(f"{row.where}: {column!r} must be a list of objects with an output_path, got {entries!r}.")
    return [_folder(entry["output_path"]) for entry in entries]


def _folder(path: str) -> str:
    """The folder that the frames of a video were saved in."""
    return path.replace("/", "_").split(".mp4")[0]
