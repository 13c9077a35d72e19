"""What a dataset asks, whatever its layout: queries with their labels, candidates by name. Knows no model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tte_runtime.errors import DatasetError
from tte_runtime.evaluation.mmeb.catalogue import Dataset
from tte_runtime.evaluation.mmeb.files import Row, find_files, read_rows


@dataclass(frozen=True)
class Request:
    """What is embedded.

    Attributes:
        text: after the media, "" for none.
        instruction: before the text, "" for none.
        media: {"image": path} or {"video": paths of frames}, or nothing.
    """

    text: str = ""
    instruction: str = ""
    media: dict[str, Path | list[Path]] = field(default_factory=dict)

    def item(self, takes_instruction: bool) -> dict[str, Any]:
        """As `Embedder.embed` takes it. The instruction stands before the text where the recipe has no place for it."""
        if takes_instruction:
            return {**self.media, "text": self.text, "instruction": self.instruction or None}
        return {**self.media, "text": " ".join(part for part in (self.instruction, self.text) if part)}


@dataclass(frozen=True)
class Query:
    """A query.

    Attributes:
        request: what is embedded.
        labels: names of the right candidates, and how right (1 where relevance is binary).
        candidates: names of those it is ranked against; `None` for all of the dataset.
    """

    request: Request
    labels: dict[str, float]
    candidates: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Task:
    """A dataset, read.

    Attributes:
        dataset: which.
        queries: at least one.
        candidates: by name; of two with one name the first counts, as in VLM2Vec's `generate_cand_dataset`.
    """

    dataset: Dataset
    queries: list[Query]
    candidates: dict[str, Request]


def picture(path: Path) -> dict[str, Path | list[Path]]:
    """The media of one picture."""
    return {"image": path}


def annotation_files(folder: Path, dataset: Dataset, subset: str | None = None) -> list[Path]:
    """The files of a dataset's annotations; raises DatasetError where there are none."""
    subset = subset or dataset.subset
    files = find_files(folder / dataset.repo, subset, dataset.split)
    if not files:
        of_subset = f" of {subset!r}" if subset else ""
        raise DatasetError(
            f"{dataset.name}: {folder / dataset.repo} has no annotations{of_subset} for split {dataset.split!r}. Put a "
            f"copy of the hub's dataset {dataset.repo} there."
        )
    return files


def read_annotations(folder: Path, dataset: Dataset, limit: int | None = None) -> list[Row]:
    """The rows of a dataset, at most `limit`; raises DatasetError where there are none, or they cannot be read."""
    files = annotation_files(folder, dataset)
    rows = list(read_rows(files, limit))
    if not rows:
        raise DatasetError(f"{dataset.name}: {files[0]} has no rows. Download it again.")
    return rows
