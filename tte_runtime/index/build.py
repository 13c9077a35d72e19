"""From a folder to an index: what is new, what has changed, what is gone. Stopped at any point, it goes on from there.

Knows files and blocks; embedding is `Embedder`'s, and the files of an index are `store`'s.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from tte_runtime.errors import InputError, TteError
from tte_runtime.index.store import IndexWriter, Settings
from tte_runtime.inputs.documents import count_pages
from tte_runtime.inputs.items import PDF_SUFFIX, PICTURE_SUFFIXES, VIDEO_SUFFIXES
from tte_runtime.types import Think

if TYPE_CHECKING:
    from tte_runtime.embedder import Embedder

TEXT_SUFFIX = ".txt"
SUFFIXES = (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES, PDF_SUFFIX, TEXT_SUFFIX)
BLOCK = 64  # documents embedded between two writes: what a kill may cost


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
        embedded: documents that were new or had changed.
        kept: documents whose vectors were there already.
        removed: documents whose files are gone.
        failed: path -> error, of documents that could not be embedded; the next build tries them again.
    """

    embedded: int
    kept: int
    removed: int
    failed: dict[str, Exception]


def build_index(
    embedder: Embedder,
    folder: str | Path,
    out: str | Path,
    *,
    model: str = "",
    think: bool | None = None,
    max_trace_tokens: int | None = None,
    truncate_dim: int | None = None,
    batch_size: int | None = None,
    show_progress_bar: bool = False,
) -> BuildReport:
    """Embed every picture, video, page of a PDF and .txt file under a folder, as documents, into an index.

    Args:
        embedder: whose vectors the index will hold.
        folder: searched with its subfolders; hidden files and folders are left out.
        out: the index; one that is there already is brought up to date, and what is done is not done again.
        model: what the embedder was loaded from, for later searches.
        think, max_trace_tokens, truncate_dim: how documents are embedded; part of the index.
        batch_size: most requests in work at once.
        show_progress_bar: on stderr.

    Raises:
        InputError: the folder is none, or has nothing to index. IndexFileError: as `IndexWriter`.
        OptionError: an option is out of range.
    """
    root, out = Path(folder).expanduser(), Path(out).expanduser()
    files = find_files(root, out)
    settings = Settings(
        embedder.fingerprint, model, truncate_dim or embedder.embedding_dim, think, max_trace_tokens, truncate_dim
    )
    how: dict[str, Any] = {"think": think, "truncate_dim": truncate_dim, "batch_size": batch_size}
    if think is not False and max_trace_tokens is not None:
        how["think"] = Think(max_tokens=max_trace_tokens)
    with IndexWriter(out, settings) as writer:
        hashes, failed = find_documents(root, files)
        same = {name for name in hashes if name in writer.entries and writer.entries[name].sha256 == hashes[name]}
        gone = set(writer.entries) - set(hashes)
        writer.remove([path for path in writer.entries if path not in same])
        todo = [name for name in hashes if name not in same]
        with tqdm(total=len(hashes), initial=len(same), unit="item", disable=not show_progress_bar) as bar:
            for start in range(0, len(todo), BLOCK):
                block = todo[start : start + BLOCK]
                failed |= add_files(embedder, writer, root, {name: hashes[name] for name in block}, how)
                bar.update(len(block))
        writer.finish()
    embedded = sum(name not in failed for name in todo)
    return BuildReport(embedded, len(same), len(gone), failed)


def find_files(root: Path, out: Path) -> list[str]:
    """Files to index under a folder, sorted, relative, with forward slashes; not those of the index itself.

    Raises:
        InputError: the folder is none, or there is nothing in it to index.
    """
    if not root.is_dir():
        raise InputError(f"{root} is no folder. Give the folder that holds what is to be indexed.")
    found = []
    for path in root.rglob("*"):
        relative = path.relative_to(root)
        wanted = path.suffix.lower() in SUFFIXES
        hidden = any(part.startswith(".") for part in relative.parts)
        if wanted and not hidden and path.is_file() and not path.is_relative_to(out):
            found.append(relative.as_posix())
    if not found:
        raise InputError(f"{root} has nothing to index. Files that can be: {', '.join(SUFFIXES)}.")
    return sorted(found)


def find_documents(root: Path, files: list[str]) -> tuple[dict[str, str], dict[str, Exception]]:
    """Documents of files, by name, with the hash of their file; and the error of each PDF that cannot be read.

    A file is one document under its own name; of a PDF every page is one, as "report.pdf#page=3".
    """
    hashes: dict[str, str] = {}
    failed: dict[str, Exception] = {}
    for name in files:
        with (root / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not name.lower().endswith(PDF_SUFFIX):
            hashes[name] = digest
            continue
        try:
            hashes |= {f"{name}#page={number + 1}": digest for number in range(count_pages(root / name))}
        except TteError as error:
            failed[name] = error
    return hashes, failed


def add_files(
    embedder: Embedder, writer: IndexWriter, root: Path, hashes: dict[str, str], how: dict[str, Any]
) -> dict[str, Exception]:
    """Embed files, given by name and hash, and write them to the index. Returns the error of each that failed."""
    items = {name: read_file(root, name) for name in hashes}
    good = {name: item for name, item in items.items() if not isinstance(item, Exception)}
    failed: dict[str, Exception] = {name: item for name, item in items.items() if isinstance(item, Exception)}
    outcomes = embedder.embed(list(good.values()), role="document", priority="corpus", errors="return", **how)
    documents, vectors = [], []
    for name, outcome in zip(good, outcomes, strict=True):
        if isinstance(outcome, Exception):
            failed[name] = outcome
        else:
            documents.append((name, hashes[name], outcome.trace))
            vectors.append(outcome.vector)
    if documents:
        writer.add(documents, np.stack(vectors))
    return failed


def read_file(root: Path, name: str) -> Any:
    """A document as a request, or the InputError that says why it is none."""
    if not name.lower().endswith(TEXT_SUFFIX):
        return root / name  # pages, videos and pictures are told apart by what the name ends in
    try:
        return {"text": (root / name).read_text(encoding="utf-8")}
    except (OSError, UnicodeDecodeError) as error:
        return InputError(f"the text cannot be read: {error}. Save it as UTF-8.")
