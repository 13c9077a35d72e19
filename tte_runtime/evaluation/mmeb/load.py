"""Which datasets a folder has, and reading one, whatever its layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tte_runtime.errors import DatasetError, OptionError, one_of
from tte_runtime.evaluation.mmeb import documents, images, moments, videos
from tte_runtime.evaluation.mmeb.catalogue import DATASETS, IMAGE_REPO, Dataset, own
from tte_runtime.evaluation.mmeb.files import find_files
from tte_runtime.evaluation.mmeb.tasks import Task

PARSERS: dict[str, Callable[[Path, Dataset, int | None], Task]] = {
    "image": images.image_task,
    "video_classification": videos.classification_task,
    "ssv2": videos.ssv2_task,
    "mvbench": videos.mvbench_task,
    **videos.QUESTIONS,
    **dict.fromkeys(videos.CAPTIONS, videos.retrieval_task),
    "moment_retrieval": moments.moment_task,
    "momentseeker": moments.seeker_task,
    "vidore": documents.document_task,
    "visrag": documents.document_task,
}


def choose_datasets(folder: Path, names: Sequence[str] = ()) -> list[Dataset]:
    """Datasets by name, in the leaderboard's order; all that the folder has where no names are given.

    Raises:
        DatasetError: the folder is none, or has no dataset. OptionError: a name is neither MMEB-V2's nor in the folder.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is no folder. Give the folder that holds the data: see docs/evaluation.md.")
    images_folder = folder / IMAGE_REPO
    extra = sorted(path.name for path in images_folder.iterdir() if path.is_dir()) if images_folder.is_dir() else []
    known = DATASETS | {name: own(name) for name in extra if name not in DATASETS}
    for name in names:
        if name not in known:
            raise OptionError(one_of("dataset", name, list(known)))
    found = [d for d in known.values() if (d.name in names if names else is_there(folder, d))]
    if not found:
        raise DatasetError(
            f"{folder} has no dataset of MMEB-V2: there is no {IMAGE_REPO} in it, and none of the other folders with "
            "annotations. docs/evaluation.md says what must lie where."
        )
    return found


def is_there(folder: Path, dataset: Dataset) -> bool:
    """Whether a folder has annotations of a dataset."""
    subset = {"image": dataset.subset, "own": dataset.subset, "visdoc": "queries"}.get(dataset.modality)
    if subset is None:
        return (folder / dataset.repo).is_dir()
    return bool(find_files(folder / dataset.repo, subset, dataset.split))


def read_task(folder: Path, dataset: Dataset, limit: int | None = None) -> Task:
    """Read a dataset, its first `limit` queries and their candidates only.

    Raises:
        DatasetError: it is missing, broken, or laid out in another way. MissingExtraError: Parquet, without pyarrow.
    """
    return PARSERS[dataset.parser](folder, dataset, limit)
