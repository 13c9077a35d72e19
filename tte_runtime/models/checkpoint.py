"""A checkpoint as a folder: found by name, its config read, and what decides its vectors hashed.

Knows folders and files; loads no weights.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from tte_runtime.errors import CheckpointError
from tte_runtime.models.spec import check_family

BUNDLED = ("tte-tiny",)
WHOLE_FILE_LIMIT = 64 * 2**20  # larger weight files are sampled, or hashing would take longer than loading
HASHED_FILES = (
    "config.json",
    "tokenizer.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
)


def find_folder(name: str | Path) -> Path:
    """The folder of a bundled checkpoint, a path, or a model id of the Hugging Face hub.

    Raises:
        CheckpointError: there is no such folder, or the hub has no such model or cannot be reached.
    """
    if str(name) in BUNDLED:
        return Path(__file__).parents[1] / "checkpoints" / str(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        raise CheckpointError(
            f"{str(name)!r} is no folder, no bundled checkpoint ({', '.join(BUNDLED)}) and no hub id (owner/name)."
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name)))
    except Exception as error:  # the hub client raises its own and its transport's errors
        raise CheckpointError(
            f"{str(name)!r} is no folder here and could not be fetched from the hub: {error}"
        ) from error


def read_config(folder: Path) -> Any:
    """The checkpoint's transformers config, of a family that we serve.

    Raises:
        CheckpointError: the folder has no readable config. UnsupportedModelError: another family.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} is no checkpoint: it has no config.json.")
    try:
        family = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is no JSON object: {error}.") from error
    check_family(family)
    try:
        return AutoConfig.from_pretrained(folder)
    except Exception as error:  # transformers validates with several kinds of errors
        raise CheckpointError(f"{path} is no valid {family} config: {error}") from error


def weights_digest(folder: Path) -> str:
    """A hash of everything in the folder that decides vectors: weights, config, tokenizer, processor.

    Files over 64 MiB count by size, first and last MiB, and every 64th MiB between.
    """
    digest = hashlib.sha256()
    for path in [folder / name for name in HASHED_FILES] + sorted(folder.glob("*.safetensors")):
        if path.is_file():
            digest.update(f"{path.name}|{path.stat().st_size}|".encode())
            _hash_file(digest, path)
    return digest.hexdigest()


def _hash_file(digest: Any, path: Path) -> None:
    size, block = path.stat().st_size, 2**20
    with path.open("rb") as file:
        if size <= WHOLE_FILE_LIMIT:
            digest.update(file.read())
            return
        for offset in [*range(0, size - block, 64 * block), size - block]:
            file.seek(offset)
            digest.update(file.read(block))
