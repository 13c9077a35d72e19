"""The errors a user can meet, all under one root. Each message gives the value, the rule and the remedy.

    TteError
    ├── OptionError        an option is unknown or out of range                  (ValueError)
    ├── InputError         a request cannot be embedded as given                 (ValueError)
    │   ├── PictureError   a picture is missing, broken or of an unknown kind
    │   ├── VideoError     a video is missing, broken, empty, or too long for the model
    │   ├── DocumentError  a PDF is missing or broken, or has no such page
    │   ├── TraceError     a trace cannot be used: empty, too long, or with tokens that no trace may have
    │   └── ContextError   a prompt does not fit the model's context or the cache
    ├── CheckpointError    a folder is no checkpoint, or its parts disagree      (ValueError)
    │   ├── UnsupportedModelError   a model family we have no decoder for
    │   └── RecipeError             no recipe fits, or the recipe does not fit the checkpoint
    ├── TraceStoreError    a store of traces is broken, foreign, or cannot be written   (ValueError)
    ├── IndexFileError     an index is missing, broken or of another fingerprint (ValueError)
    ├── DatasetError       data of an evaluation is missing, broken or laid out in another way   (ValueError)
    ├── MissingExtraError  an optional dependency is not installed               (ImportError)
    ├── ReasonerError      a remote reasoner cannot be reached, failed, or answered nonsense (RuntimeError)
    ├── EngineError        the engine failed while it worked on a request        (RuntimeError)
    ├── TrainingError      a training run diverged: its loss or its weights are no numbers   (RuntimeError)
    └── BatchError         some requests of a batch failed; carries the results of the others

This file knows nothing of torch, models or requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class TteError(Exception):
    """Root of every error that tte-runtime raises on purpose."""


class OptionError(TteError, ValueError):
    """An option is unknown or out of its range."""


class InputError(TteError, ValueError):
    """A request cannot be embedded as given: it is empty, or of an unknown form."""


class PictureError(InputError):
    """A picture is missing, broken, or of a kind that cannot be read."""


class VideoError(InputError):
    """A video is missing, broken or empty, or cannot be sampled as asked."""


class DocumentError(InputError):
    """A PDF is missing or broken, or has no such page."""


class TraceError(InputError):
    """A trace cannot be used: it is empty, too long, or has tokens that no trace may have."""


class ContextError(InputError):
    """A prompt, with the trace it may write, does not fit the context or the KV cache."""


class CheckpointError(TteError, ValueError):
    """A folder is no checkpoint, or its files do not fit together."""


class UnsupportedModelError(CheckpointError):
    """The checkpoint is of a model family that the runtime has no decoder for."""


class RecipeError(CheckpointError):
    """No recipe fits the checkpoint, or the named one does not."""


class TraceStoreError(TteError, ValueError):
    """A store of traces is broken, belongs to another program, or cannot be read or written."""


class IndexFileError(TteError, ValueError):
    """An index on disk is missing, broken, or was built by another model."""


class DatasetError(TteError, ValueError):
    """Data of an evaluation is missing, cannot be read, or is laid out in another way."""


class MissingExtraError(TteError, ImportError):
    """An optional dependency is needed; the message has the install command."""


class ReasonerError(TteError, RuntimeError):
    """A remote reasoner cannot be reached, failed after all retries, or gave an answer that is no trace."""


class EngineError(TteError, RuntimeError):
    """The engine failed while working on a request; other requests are not touched."""


class TrainingError(TteError, RuntimeError):
    """A training run diverged: its loss or its weights are NaN or infinite. What was saved before is kept."""


class BatchError(TteError):
    """Some requests of a batch failed. Nothing of the others is lost.

    Attributes:
        results: one entry a request, in order; `None` where the request failed.
        errors: the error of every failed request, by its index in the batch.
    """

    def __init__(self, results: Sequence[Any], errors: Mapping[int, Exception]) -> None:
        self.results = list(results)
        self.errors = dict(errors)
        index, first = next(iter(self.errors.items()))
        super().__init__(
            f"{len(self.errors)} of {len(self.results)} requests failed; the first is request {index}: {first} "
            'The others are in `.results`. Use errors="return" to get the errors in their places instead.'
        )


def one_of(kind: str, value: object, known: Sequence[str]) -> str:
    """The sentence for a name that is not among the known ones."""
    return f"unknown {kind} {value!r}. Known: {', '.join(known)}."
