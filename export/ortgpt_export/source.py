"""Where a checkpoint comes from: a local directory, or the Hugging Face hub."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from ortgpt.checks import shown
from ortgpt.errors import CheckpointError, MissingExtraError, OptionError, OrtgptError

# weights as safetensors only: a pickle is not even downloaded
HUB_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
CHUNK_BYTES = 4 << 20
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_HUB_ID = re.compile(rf"{_PART}(?:/{_PART})?")


@dataclass(frozen=True)
class Source:
    """A checkpoint to read: a directory, or a hub id with a revision. `name` is what the manifest shows."""

    name: str
    directory: Path | None
    revision: str | None = None


def parse_source(text: str, revision: str | None = None) -> Source:
    """What a source string means, without touching the network.

    An existing path is local; otherwise `name` or `org/name` is a hub id. Raises CheckpointError
    for a path that does not exist or is no directory, OptionError for a revision of a local one.
    """
    path = Path(text).expanduser()
    if text and _exists(path):
        if not path.is_dir():
            raise CheckpointError(f"{text} is a file; the source is the directory that holds config.json")
        if revision is not None:
            raise OptionError("revision", f"is for hub ids, but {text} is a local directory")
        return Source(Path(os.path.abspath(path)).name or text, path)
    if not _HUB_ID.fullmatch(text) or ".." in text or "--" in text:
        raise CheckpointError(f"{shown(text)} does not exist, and is not a hub id like gpt2 or org/name")
    return Source(text, None, revision)


def fetch(source: Source, *, quiet: bool = False) -> Path:
    """The directory with the checkpoint's files, downloaded if need be. Raises OrtgptError."""
    return source.directory or _download(source, quiet)


def source_sha256(files: list[Path], on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """One digest over a checkpoint's files: SHA-256 of "name digest" lines, sorted by name."""
    lines = []
    for path in sorted(files, key=lambda path: path.name):
        digest = hashlib.sha256()
        try:
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
                    on_bytes(len(chunk))
        except OSError as error:
            raise CheckpointError(f"{path.name} can't be read: {error.strerror}") from None
        lines.append(f"{path.name} {digest.hexdigest()}\n")
    return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or a NUL inside
        return False


def _download(source: Source, quiet: bool) -> Path:
    try:
        import huggingface_hub
    except ImportError as error:
        package = error.name or "huggingface_hub"
        raise MissingExtraError("export from the hub", "export", package=package) from None
    try:
        with _hidden_bars() if quiet else nullcontext():
            path = huggingface_hub.snapshot_download(
                source.name,
                revision=source.revision,
                allow_patterns=list(HUB_FILES),
                ignore_patterns=["*/*"],
            )
    except Exception as error:
        raise OrtgptError(
            f"downloading {source.name!r} failed: {_reason(source, error)}",
            hint="a checkpoint in a local directory is exported without the network",
        ) from error
    return Path(path)


@contextmanager
def _hidden_bars() -> Iterator[None]:
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _reason(source: Source, error: Exception) -> str:
    """What went wrong, in one sentence."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "it is gated; accept its terms on its page and log in with the hub's own command line"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such public model on the hub, and no local directory of that name"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision {shown(source.revision or 'main')}"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return "the hub can't be reached or offline mode is on, and the model is not in the local cache"
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return "the hub did not answer in time; what was downloaded is kept, so try again"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"the hub answered with status {status}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    first_line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line[:200]}"
