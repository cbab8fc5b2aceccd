"""ortgpt.bundle.files: what may be opened, and what is read from it."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ortgpt.bundle import files
from ortgpt.bundle.files import CHUNK_BYTES, hash_file, open_regular, read_verified, settled_identity
from ortgpt.errors import BundleError, BundleIntegrityError


def contents(path: Path, root: Path) -> bytes:
    descriptor = open_regular(path, root)
    try:
        return os.read(descriptor, 1000)
    finally:
        os.close(descriptor)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "real").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    return folder


def test_regular_file_is_opened(root: Path) -> None:
    descriptor = open_regular(root / "real", root)
    assert os.read(descriptor, 100) == b"inside"
    assert open_files(root) == [str(root / "real")]
    os.close(descriptor)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)  # a socket's path may have 107 bytes only
        server.bind(path.name)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (Path.mkdir, "a directory"),
        (os.mkfifo, "a FIFO"),
        (make_socket, "a socket"),
    ],
)
def test_only_regular_files_are_opened_and_nothing_blocks(
    root: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], kind: str
) -> None:
    """FAULTS 7"""
    monkeypatch.chdir(root)
    make(root / "odd")
    with pytest.raises(BundleError, match=f"odd is {kind}, not a regular file"):
        open_regular(root / "odd", root)


def test_device_is_refused_itself_and_behind_a_link(root: Path) -> None:
    """FAULTS 7"""
    with pytest.raises(BundleError, match="zero is a device"):
        open_regular(Path("/dev/zero"), Path("/dev"))
    (root / "odd").symlink_to("/dev/zero")
    with pytest.raises(BundleError, match="odd is a link that leaves the bundle"):
        open_regular(root / "odd", root)


@pytest.mark.parametrize("target", ["../secret", "/etc/passwd"])
def test_link_out_of_the_bundle_is_refused(root: Path, target: str) -> None:
    """FAULTS 5"""
    (root / "odd").symlink_to(target)
    with pytest.raises(BundleError, match="odd is a link that leaves the bundle"):
        open_regular(root / "odd", root)


def test_link_within_the_bundle_is_followed(root: Path) -> None:
    """FAULTS 5"""
    (root / "alias").symlink_to("real")
    assert contents(root / "alias", root) == b"inside"


def test_link_to_a_folder_with_the_same_beginning_is_outside(root: Path) -> None:
    """FAULTS 5"""
    sibling = root.with_name("bundle-evil")
    sibling.mkdir()
    (sibling / "file").write_bytes(b"outside")
    (root / "odd").symlink_to("../bundle-evil/file")
    with pytest.raises(BundleError, match="leaves the bundle"):
        open_regular(root / "odd", root)


def test_parent_directory_that_links_out_is_refused(root: Path) -> None:
    """FAULTS 5"""
    (root / "folder").symlink_to("..")
    with pytest.raises(BundleError, match="secret is a link that leaves the bundle"):
        open_regular(root / "folder" / "secret", root)


def test_bundle_directory_may_itself_be_reached_through_a_link(root: Path) -> None:
    (root.parent / "current").symlink_to("bundle")
    assert contents(root.parent / "current" / "real", root.parent / "current") == b"inside"


def test_circle_of_links_is_refused(root: Path) -> None:
    """FAULTS 5"""
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(BundleError, match="a can't be read: Too many levels of symbolic links"):
        open_regular(root / "a", root)


def test_dangling_link_and_missing_file_are_missing(root: Path) -> None:
    (root / "dangling").symlink_to("nowhere")
    for name in ("dangling", "nowhere"):
        with pytest.raises(BundleIntegrityError, match=f"{name} is missing"):
            open_regular(root / name, root)


@pytest.mark.parametrize("name", ["a\0b", "x" * 300])
def test_impossible_name_is_a_bundle_error(root: Path, name: str) -> None:
    """FAULTS 4"""
    with pytest.raises(BundleError, match="can't be read"):
        open_regular(root / name, root)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A Hugging Face cache of one repository; returns its folder."""
    repository = tmp_path / "hub" / "models--org--name"
    (repository / "blobs").mkdir(parents=True)
    (repository / "blobs" / "0a1b").write_bytes(b"blob")
    (repository / "snapshots" / "main" / "sub").mkdir(parents=True)
    return repository


def test_cache_layout_link_into_the_blobs_of_the_same_repository_is_followed(cache: Path) -> None:
    """FAULTS 5"""
    snapshot = cache / "snapshots" / "main"
    (snapshot / "file").symlink_to("../../blobs/0a1b")
    assert contents(snapshot / "file", snapshot) == b"blob"
    (snapshot / "sub" / "file").symlink_to("../../../blobs/0a1b")
    assert contents(snapshot / "sub" / "file", snapshot / "sub") == b"blob"


def test_cache_layout_allows_no_other_target(cache: Path) -> None:
    """FAULTS 5"""
    snapshot = cache / "snapshots" / "main"
    other = cache.parent / "models--org--other" / "blobs"
    other.mkdir(parents=True)
    for target in (other / "0a1b", cache / "config", cache / "snapshots" / "old"):
        target.write_bytes(b"elsewhere")
        (snapshot / "file").unlink(missing_ok=True)
        (snapshot / "file").symlink_to(target)
        with pytest.raises(BundleError, match="leaves the bundle"):
            open_regular(snapshot / "file", snapshot)


def test_blobs_directory_that_is_a_link_opens_nothing(cache: Path) -> None:
    """FAULTS 5"""
    snapshot = cache / "snapshots" / "main"
    (cache / "blobs").rename(cache.parent / "elsewhere")
    (cache / "blobs").symlink_to("../elsewhere")
    (snapshot / "file").symlink_to("../../blobs/0a1b")
    with pytest.raises(BundleError, match="leaves the bundle"):
        open_regular(snapshot / "file", snapshot)


@pytest.mark.parametrize(
    ("swap", "message"),
    [
        (os.mkfifo, "real is a FIFO"),
        (lambda path: path.symlink_to("../secret"), "real can't be read"),
    ],
)
def test_file_swapped_after_the_look_at_its_kind_is_not_read(
    root: Path, monkeypatch: pytest.MonkeyPatch, swap: Callable[[Path], None], message: str
) -> None:
    """FAULTS 7, 11"""
    look = files._check_regular

    def look_then_swap(path: Path, status: os.stat_result) -> None:
        look(path, status)
        (root / "real").unlink()
        swap(root / "real")

    monkeypatch.setattr(files, "_check_regular", look_then_swap)
    with pytest.raises(BundleError, match=message):
        open_regular(root / "real", root)


def open_files(root: Path) -> list[str]:
    """This process's open files below a directory."""
    links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    targets = [os.readlink(link) for link in links if link.is_symlink()]
    return [target for target in targets if target.startswith(str(root))]


def test_refused_file_leaves_no_descriptor_open(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([None, BundleError("no")])

    def refuse_after_opening(path: Path, status: os.stat_result) -> None:
        if problem := next(looks):
            raise problem

    monkeypatch.setattr(files, "_check_regular", refuse_after_opening)
    with pytest.raises(BundleError, match="no"):
        open_regular(root / "real", root)
    assert open_files(root) == []


def test_read_verified_returns_the_bytes_of_the_open_file_not_of_the_name(root: Path) -> None:
    """FAULTS 11"""
    descriptor = open_regular(root / "real", root)
    (root / "other").write_bytes(b"evil!!")
    os.replace(root / "other", root / "real")
    digest = hashlib.sha256(b"inside").hexdigest()
    assert read_verified("real", descriptor, 6, digest) == b"inside"
    assert read_verified("real", descriptor, 6, digest) == b"inside"  # from the start again
    os.close(descriptor)


@pytest.mark.parametrize("size", [0, 5, 7, 10**15])
def test_other_size_is_refused_before_any_byte_is_read(
    root: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """FAULTS 9"""
    descriptor = open_regular(root / "real", root)
    monkeypatch.setattr(files, "read_exactly", lambda *_: pytest.fail("was read"))
    with pytest.raises(BundleIntegrityError, match=f"real has 6 bytes, the manifest says {size}"):
        read_verified("real", descriptor, size, "0" * 64)
    os.close(descriptor)


@pytest.mark.parametrize("size", [5, 7])
def test_file_that_grows_or_shrinks_after_its_size_was_checked_is_refused(root: Path, size: int) -> None:
    """FAULTS 11"""
    descriptor = open_regular(root / "real", root)
    with pytest.raises(BundleIntegrityError, match="real changed while it was read"):
        files.read_exactly("real", descriptor, size)
    os.close(descriptor)


def test_other_digest_is_refused_and_named(root: Path) -> None:
    """FAULTS 8"""
    descriptor = open_regular(root / "real", root)
    found = hashlib.sha256(b"inside").hexdigest()
    with pytest.raises(BundleIntegrityError, match=f"real has SHA-256 {found}, the manifest says {'0' * 64}"):
        read_verified("real", descriptor, 6, "0" * 64)
    assert read_verified("real", descriptor, 6, None) == b"inside"
    os.close(descriptor)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_streamed_digest_equals_the_digest_at_once(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "big").write_bytes(data)
    descriptor = open_regular(tmp_path / "big", tmp_path)
    counts: list[int] = []
    assert hash_file("big", descriptor, counts.append) == hashlib.sha256(data).hexdigest()
    assert sum(counts) == size
    os.close(descriptor)


def test_identity_is_taken_when_the_last_change_is_older_than_a_clock_tick(root: Path) -> None:
    """FAULTS 11: a change within the same tick would leave the times as they are."""
    (root / "real").write_bytes(b"newest")
    descriptor = open_regular(root / "real", root)
    identity = settled_identity("real", descriptor)
    assert time.time_ns() - identity.changed >= files.CLOCK_TICK_NS
    assert identity == files.FileIdentity.of(os.stat(root / "real"))
    os.close(descriptor)


def test_file_that_never_rests_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 11"""
    (root / "real").write_bytes(b"newest")
    descriptor = open_regular(root / "real", root)
    monkeypatch.setattr(files, "CLOCK_TICK_NS", 10**18)  # however slow the machine is
    monkeypatch.setattr(files.time, "sleep", lambda _: os.utime(root / "real"))
    with pytest.raises(BundleIntegrityError, match="real is being changed while it is read"):
        settled_identity("real", descriptor)
    os.close(descriptor)


def test_read_error_is_a_bundle_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 1"""

    def refuse(*_: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.os, "open", refuse)
    with pytest.raises(BundleError, match="real can't be read: Permission denied"):
        open_regular(root / "real", root)
