"""A checkpoint on disk: found by name, its parts located, its config read, and what decides its vectors hashed.

Knows folders and files; loads no weights.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from tte_runtime.errors import CheckpointError
from tte_runtime.models.gguf import is_gguf, read_gguf_config
from tte_runtime.models.spec import check_family
from tte_runtime.models.weights import has_weights

BUNDLED = ("tte-tiny",)
WHOLE_FILE_LIMIT = 64 * 2**20  # larger weight files are sampled, or hashing would take longer than loading
ADAPTER_CONFIG = "adapter_config.json"  # of peft
HASHED_FILES = (
    "config.json",
    ADAPTER_CONFIG,
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
)


def find_folder(name: str | Path) -> Path:
    """The folder of a bundled checkpoint, a path (of a GGUF file, too), or a model id of the Hugging Face hub.

    Raises:
        CheckpointError: there is no such folder, or the hub has no such model or cannot be reached.
    """
    if str(name) in BUNDLED:
        return Path(__file__).parents[1] / "checkpoints" / str(name)
    folder = Path(name).expanduser()
    if folder.is_dir() or is_gguf(folder):
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


@dataclass(frozen=True)
class Checkpoint:
    """Where the parts of a checkpoint lie.

    Attributes:
        folder: what was named, or where a named GGUF file lies: recipe, head, adapter.
        model: config and weights: the same folder, a GGUF file, or those of an adapter's base.
        processors: tokenizer and image processor: the folder if it has a tokenizer, else as `model`.
        adapted: the folder holds a LoRA adapter in peft's layout.
    """

    folder: Path
    model: Path
    processors: Path
    adapted: bool = False

    @classmethod
    def of(cls, path: Path) -> Checkpoint:
        """The parts of a folder or a GGUF file. A folder with weights of its own is no adapter, whatever else it has.

        Raises:
            CheckpointError: an adapter's base cannot be found or is an adapter itself, or there are several GGUF files
                to choose from.
        """
        if is_gguf(path):
            return cls(path.parent, path, path.parent if _has_tokenizer(path.parent) else path)
        if _is_adapter(path):
            base = cls.of(_find_base(path))
            return cls(path, base.model, path if _has_tokenizer(path) else base.processors, adapted=True)
        files = [] if has_weights(path) else sorted(path.glob("*.gguf"))
        if len(files) > 1:
            raise CheckpointError(
                f"{path} has {len(files)} GGUF files. Give the path of one: {', '.join(f.name for f in files)}."
            )
        return cls.of(files[0]) if files else cls(path, path, path)


def _find_base(folder: Path) -> Path:
    name = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    remedy = f"Set base_model_name_or_path in {folder / ADAPTER_CONFIG} to the base's folder or hub id."
    if not isinstance(name, str) or not name:
        raise CheckpointError(f"the adapter in {folder} does not say what its base is. {remedy}")
    try:
        base = find_folder(name)
    except CheckpointError as error:
        raise CheckpointError(f"the base of the adapter in {folder} cannot be found: {error} {remedy}") from error
    if base.resolve() == folder.resolve():
        raise CheckpointError(f"the adapter in {folder} names itself as its base. {remedy}")
    if _is_adapter(base):
        raise CheckpointError(
            f"the adapter in {folder} names {base} as its base, which is an adapter itself. Merge that one into "
            f"its own base first, and set base_model_name_or_path in {folder / ADAPTER_CONFIG} to what comes of it."
        )
    return base


def _is_adapter(path: Path) -> bool:
    return (path / ADAPTER_CONFIG).is_file() and not has_weights(path)


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises CheckpointError where the file holds none."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is no JSON object: {error}.") from error
    if not isinstance(entry, dict):
        raise CheckpointError(f"{path} is no JSON object: it holds a {type(entry).__name__}.")
    return entry


def read_config(checkpoint: Checkpoint) -> Any:
    """The checkpoint's transformers config, of a family that we serve.

    Raises:
        CheckpointError: it has no readable config. UnsupportedModelError: another family. MissingExtraError: it is a
            GGUF file, and what reads it is not installed.
    """
    if is_gguf(checkpoint.model):
        config = read_gguf_config(checkpoint.model)
        check_family(config.model_type)
        return config
    path = checkpoint.model / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{checkpoint.model} is no checkpoint: it has no config.json.")
    family = read_json(path).get("model_type")
    check_family(family)
    try:
        return AutoConfig.from_pretrained(checkpoint.model)
    except Exception as error:  # transformers validates with several kinds of errors
        raise CheckpointError(f"{path} is no valid {family} config: {error}") from error


def weights_digest(checkpoint: Checkpoint, *, without: str | None = None) -> str:
    """A hash of every file that decides vectors, less one: weights, adapter, config, tokenizer, processor.

    Files over 64 MiB count by size, first and last MiB, and every 64th MiB between.
    """
    digest = hashlib.sha256()
    for root in dict.fromkeys((checkpoint.model, checkpoint.folder)):
        files = [root / name for name in HASHED_FILES] + sorted(root.glob("*.safetensors"))
        for path in [root] if is_gguf(root) else files:
            if path.is_file() and path.name != without:
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
