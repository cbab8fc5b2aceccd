"""Writes manifest.json into a directory that is already there, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ortgpt.errors import OrtgptError
from ortgpt.manifest import MANIFEST_NAME, Manifest


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """By a temporary file beside it, synced and renamed. Raises OrtgptError when it can't be written."""
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{MANIFEST_NAME}.", dir=directory)
        temporary = Path(name)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(manifest.to_json())
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o666 & ~_umask())
        os.replace(temporary, directory / MANIFEST_NAME)
        temporary = None
        _sync(directory)
    except OSError as error:
        raise OrtgptError(
            f"{directory / MANIFEST_NAME} can't be written: {error.strerror or error}"
        ) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    """What the process takes from new files' permissions; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
