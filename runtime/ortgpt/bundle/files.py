"""Opens, reads and hashes the files of a bundle, which may come from anybody.

Nothing but a regular file is ever opened, since a FIFO or a device could block or never end. A link
is followed only where it stays inside the bundle, or leads into the `blobs` directory of a Hugging
Face cache that the bundle lies in.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from ortgpt.errors import BundleError, BundleIntegrityError

CHUNK_BYTES = 4 << 20
# File times may be as coarse as a kernel tick (10 ms): two changes within one look like a single one.
CLOCK_TICK_NS = 12_000_000

OnBytes = Callable[[int], None]
"""Is told how many more bytes have been hashed."""


class FileIdentity(NamedTuple):
    """What changes when a file is replaced or written to; times in nanoseconds."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def open_regular(path: Path, root: Path) -> int:
    """Open a regular file inside `root` for reading; returns a descriptor that the caller closes.

    Raises BundleError for anything else, before it could block: a directory, a FIFO, a socket, a
    device, a link that leaves `root` (itself or through a parent) or leads in a circle.
    """
    try:
        target = Path(os.path.realpath(path, strict=True))
        _check_inside(path, target, root)
        _check_regular(path, os.lstat(target))
        # The file may have been swapped since: never wait for a FIFO, never follow a new link.
        descriptor = os.open(target, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise BundleIntegrityError(f"{path.name} is missing") from None
    except (OSError, ValueError) as error:
        raise unreadable(path.name, error) from None
    try:
        _check_regular(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def opened_regular(path: Path, root: Path, *, strict: bool = False) -> Iterator[int]:
    """The descriptor of `open_regular`, closed when the block ends. strict refuses hard links too."""
    descriptor = open_regular(path, root)
    try:
        if strict and os.fstat(descriptor).st_nlink > 1:
            raise BundleError(f"{path.name} is a hard link, which strict does not allow")
        yield descriptor
    finally:
        os.close(descriptor)


def unreadable(name: str | Path, error: Exception) -> BundleError:
    """What the system said, in one sentence."""
    return BundleError(f"{name} can't be read: {getattr(error, 'strerror', None) or error}")


def _check_inside(path: Path, target: Path, root: Path) -> None:
    real_root = Path(os.path.realpath(root, strict=True))
    allowed = [real_root]
    # models--org--name/snapshots/REVISION[/...] holds links to models--org--name/blobs/DIGEST.
    snapshots = next((folder for folder in real_root.parents if folder.name == "snapshots"), None)
    if snapshots is not None:
        allowed.append(snapshots.parent / "blobs")
    if not any(target.is_relative_to(folder) for folder in allowed):
        raise BundleError(f"{path.name} is a link that leaves the bundle")


def _check_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise BundleError(f"{path.name} is {kind}, not a regular file")


_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link",
}


def check_size(name: str, descriptor: int, expected: int) -> None:
    """Raise BundleIntegrityError, which has both sizes, unless the open file has that many bytes."""
    found = os.fstat(descriptor).st_size
    if found != expected:
        raise BundleIntegrityError(f"{name} has {found} bytes, the manifest says {expected}")


def read_exactly(name: str, descriptor: int, size: int) -> bytes:
    """All bytes of an open file that has `size` of them. Raises BundleIntegrityError when it has not."""
    with open(descriptor, "rb", closefd=False) as file:
        try:
            file.seek(0)
            data = file.read(size + 1)
        except OSError as error:
            raise unreadable(name, error) from None
    if len(data) != size:
        raise BundleIntegrityError(f"{name} changed while it was read")
    return data


def read_verified(name: str, descriptor: int, size: int, sha256: str | None) -> bytes:
    """The bytes of a small open file, after checking their number and, unless None, their digest.

    What is returned is what was hashed: the file is read once, from this descriptor.
    Raises BundleIntegrityError.
    """
    check_size(name, descriptor, size)
    data = read_exactly(name, descriptor, size)
    if sha256 is not None:
        check_digest(name, hashlib.sha256(data).hexdigest(), sha256)
    return data


def hash_file(name: str, descriptor: int, on_bytes: OnBytes = lambda _: None) -> str:
    """SHA-256 of an open file in lowercase hex, in one reused buffer. Raises BundleError."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK_BYTES))
    try:
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            file.seek(0)
            while count := file.readinto(buffer):
                digest.update(buffer[:count])  # frees other threads: hashlib releases the GIL
                on_bytes(count)
    except OSError as error:
        raise unreadable(name, error) from None
    return digest.hexdigest()


def map_file(name: str, descriptor: int) -> mmap.mmap | bytes:
    """A read-only mapping of an open file, which may be closed afterwards. Raises BundleError."""
    try:
        if os.fstat(descriptor).st_size == 0:  # an empty file can't be mapped
            return b""
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise unreadable(name, error) from None


def check_digest(name: str, found: str, expected: str) -> None:
    """Raise BundleIntegrityError when two SHA-256 digests differ."""
    if found != expected:
        raise BundleIntegrityError(f"{name} has SHA-256 {found}, the manifest says {expected}")


def settled_identity(name: str, descriptor: int) -> FileIdentity:
    """The identity of an open file, once its last change is old enough for the next one to show.

    Raises BundleIntegrityError when the file never comes to rest.
    """
    for _ in range(10):
        status = os.fstat(descriptor)
        age = time.time_ns() - status.st_ctime_ns
        if not 0 <= age < CLOCK_TICK_NS:  # below 0: another machine's clock, waiting would not help
            return FileIdentity.of(status)
        time.sleep((CLOCK_TICK_NS - age) / 1e9)
    raise BundleIntegrityError(f"{name} is being changed while it is read")
