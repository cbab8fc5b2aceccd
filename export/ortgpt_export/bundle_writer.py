"""Writes a bundle into a locked temporary directory beside its place and renames it: whole or absent."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from ortgpt.errors import OptionError, OrtgptError
from ortgpt.manifest import (
    GENERATION_CONFIG_NAME,
    GRAPH_NAME,
    MANIFEST_NAME,
    PREFILL_GRAPH_NAME,
    PREFILL_WEIGHTS_NAME,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
    FileEntry,
    Manifest,
)

BUNDLE_NAMES = {
    MANIFEST_NAME,
    GRAPH_NAME,
    WEIGHTS_NAME,
    PREFILL_GRAPH_NAME,
    PREFILL_WEIGHTS_NAME,
    TOKENIZER_NAME,
    GENERATION_CONFIG_NAME,
}
_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100


class BundleWriter:
    """One export's claim on a target directory.

    with BundleWriter(output) as bundle:
        with bundle.file("decoder.onnx") as file: ...
        bundle.commit(manifest)

    The files grow in `.NAME.partial` beside the target. Its flock keeps a second exporter out and
    ends with the process, so what a killed export left is simply cleared by the next. Leaving the
    block without commit removes it.
    """

    def __init__(self, output: Path, *, force: bool = False) -> None:
        """Claim `output`. Raises OptionError when it is taken, OrtgptError when it can't be written."""
        self._target = Path(os.path.abspath(output))
        self._force = force
        self.directory = self._target.parent / f".{self._target.name}.partial"
        self._files: dict[str, FileEntry] = {}
        self._is_committed = False
        check_target(self._target, force=force)
        with _clear_errors(self._target):
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _lock_directory(self.directory)
            _empty(self.directory)

    def reserve(self, nbytes: int) -> None:
        """Raise OrtgptError unless that many bytes are free."""
        free = shutil.disk_usage(self.directory).free
        if free < nbytes:
            raise OrtgptError(
                f"{self._target} needs {nbytes / 1e6:,.0f} MB, but only {free / 1e6:,.0f} MB are free there"
            )

    @contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        """A new file of the bundle, open for writing; it is synced and measured when the block ends."""
        path = self.directory / name
        with _clear_errors(self._target), path.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._files[name] = FileEntry(size=path.stat().st_size, sha256=digest)

    def add(self, name: str, data: bytes) -> None:
        """A whole file of the bundle."""
        with self.file(name) as file:
            file.write(data)

    @property
    def files(self) -> dict[str, FileEntry]:
        """Size and digest of every file written so far, the manifest excepted."""
        return {name: entry for name, entry in sorted(self._files.items()) if name != MANIFEST_NAME}

    def write_manifest(self, manifest: Manifest) -> None:
        """Write manifest.json, after which the temporary directory can be loaded as a bundle."""
        self.add(MANIFEST_NAME, manifest.to_json().encode("utf-8"))

    def commit(self, manifest: Manifest) -> None:
        """Write the manifest and move the bundle to its place."""
        self.write_manifest(manifest)
        check_target(self._target, force=self._force)
        with _clear_errors(self._target):
            _sync_directory(self.directory)
            _move(self.directory, self._target)
            self._is_committed = True
            _sync_directory(self._target.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_committed:
            shutil.rmtree(self.directory, ignore_errors=True)
        os.close(self._lock)


def check_target(target: Path, *, force: bool) -> None:
    """Raise OptionError unless `target` is free, an empty directory or, with force, a bundle."""
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_dir():
        raise OptionError("output", f"{target} exists and is not a directory")
    with _clear_errors(target):
        names = set(os.listdir(target))
    if not names or (force and MANIFEST_NAME in names and names <= BUNDLE_NAMES):
        return
    if MANIFEST_NAME not in names or not names <= BUNDLE_NAMES:
        others = ", ".join(sorted(names - BUNDLE_NAMES)[:3]) or "no manifest"
        raise OptionError("output", f"{target} exists and is not just a bundle (it holds {others})")
    raise OptionError("output", f"{target} already holds a bundle", hint="--force replaces it")


def _lock_directory(path: Path) -> int:
    """Make or take over a directory that no living process has locked; returns its locked descriptor."""
    while True:
        with suppress(FileExistsError):
            path.mkdir()
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:  # the other export has just finished
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise OrtgptError(f"another export is writing to the same place ({path})") from None
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)  # the other export renamed it between open and lock


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _empty(directory: Path) -> None:
    """Remove what a killed export left."""
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _move(source: Path, target: Path) -> None:
    """Rename a directory; an old bundle at `target` is exchanged for it in one step, then removed."""
    if not target.exists() or not any(target.iterdir()):
        os.rename(source, target)
        return
    old = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(old, fcntl.LOCK_EX)  # once exchanged it lies at `source`, where others would claim it
        _exchange(source, target)
        shutil.rmtree(source, ignore_errors=True)
    finally:
        os.close(old)


def _exchange(source: Path, target: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE)
    if hasattr(libc, "renameat2") and libc.renameat2(*arguments) == 0:
        return
    spare = source.with_suffix(".replaced")  # a file system without exchange: absent for a moment
    shutil.rmtree(spare, ignore_errors=True)
    os.rename(target, spare)
    os.rename(source, target)
    os.rename(spare, source)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _clear_errors(target: Path) -> Iterator[None]:
    """Turn an operating system's error into one sentence about the target."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OrtgptError(f"the disk is full: {target} can't be written ({reason})") from None
        raise OrtgptError(f"{target} can't be written: {reason}") from None
