"""ortgpt.bundle.bundle: files that are odd, missing, or not what the manifest says of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ortgpt.bundle import bundle as bundle_module
from ortgpt.bundle.bundle import open_bundle
from ortgpt.errors import BundleError, BundleIntegrityError
from ortgpt.manifest import (
    GENERATION_CONFIG_NAME,
    GRAPH_NAME,
    MANIFEST_NAME,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
)

LISTED = (GRAPH_NAME, WEIGHTS_NAME, TOKENIZER_NAME, GENERATION_CONFIG_NAME)


def make_directory(path: Path) -> None:
    path.mkdir()


def link_outside(path: Path) -> None:
    outside = path.parent.parent / f"outside-{path.name}"
    outside.write_bytes(b"{}")
    path.symlink_to(outside)


def link_circle(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("name", [MANIFEST_NAME, *LISTED])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "{name} is a FIFO, not a regular file"),
        (make_directory, "{name} is a directory, not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "{name} is a link that leaves the bundle"),
        (link_outside, "{name} is a link that leaves the bundle"),
        (link_circle, "{name} can't be read: Too many levels of symbolic links"),
    ],
)
def test_odd_file_is_refused_whichever_it_is(
    tiny: Any, name: str, make: Callable[[Path], None], message: str
) -> None:
    """FAULTS 5, 7"""
    (tiny.directory / name).unlink()
    make(tiny.directory / name)
    for verify in (True, False):
        found = tiny.refusal(verify=verify)
        assert found == f"{tiny.directory}: {message.format(name=name)}"


def test_cache_layout_opens_and_follows_the_links(tiny: Any, tmp_path: Path) -> None:
    """FAULTS 5"""
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for name in (MANIFEST_NAME, *LISTED):
        shutil.copy(tiny.directory / name, repository / "blobs" / f"blob-{name}")
        (snapshot / name).symlink_to(f"../../blobs/blob-{name}")
    bundle = open_bundle(snapshot)
    assert bundle.graph == tiny.open().graph
    bundle.check_weights_unchanged()
    (snapshot / WEIGHTS_NAME).unlink()
    (snapshot / WEIGHTS_NAME).symlink_to(tiny.weights_path)
    with pytest.raises(BundleIntegrityError):
        bundle.check_weights_unchanged()
    with pytest.raises(BundleError, match=f"{WEIGHTS_NAME} is a link that leaves the bundle"):
        open_bundle(snapshot)


def test_bundle_behind_a_link_to_its_directory_opens_with_the_link_resolved(
    tiny: Any, tmp_path: Path
) -> None:
    (tmp_path / "current").symlink_to("tiny")
    assert open_bundle(tmp_path / "current").directory == tiny.directory


@pytest.mark.parametrize("name", [MANIFEST_NAME, *LISTED])
def test_hard_link_is_verified_and_refused_when_strict(tiny: Any, tmp_path: Path, name: str) -> None:
    """FAULTS 6"""
    tiny.open(strict=True)
    os.link(tiny.directory / name, tmp_path / "other")
    tiny.open()
    assert f"{name} is a hard link, which strict does not allow" in tiny.refusal(strict=True)


def test_change_through_a_hard_link_is_found(tiny: Any, tmp_path: Path) -> None:
    """FAULTS 6"""
    os.link(tiny.weights_path, tmp_path / "other")
    data = bytearray((tmp_path / "other").read_bytes())
    data[100] ^= 1
    (tmp_path / "other").write_bytes(data)
    assert f"{WEIGHTS_NAME} has SHA-256" in tiny.refusal(BundleIntegrityError)


@pytest.mark.parametrize("name", LISTED)
def test_digest_mismatch_is_an_integrity_error_with_both_digests(tiny: Any, name: str) -> None:
    """FAULTS 8"""
    found = tiny.manifest["files"][name]["sha256"]
    tiny.write_entry(name, sha256="0" * 64)
    message = tiny.refusal(BundleIntegrityError)
    assert message == f"{tiny.directory}: {name} has SHA-256 {found}, the manifest says {'0' * 64}"
    tiny.open(verify=False)


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "g" * 64, None, 0, "\uff10" * 64])
def test_digest_that_is_missing_or_not_hex_is_refused(tiny: Any, digest: Any) -> None:
    """FAULTS 8"""
    tiny.write_entry(WEIGHTS_NAME, sha256=digest)
    for verify in (True, False):
        assert f"files.{WEIGHTS_NAME}.sha256" in tiny.refusal(verify=verify)


def test_uppercase_digest_is_accepted(tiny: Any) -> None:
    """FAULTS 8"""
    tiny.write_entry(WEIGHTS_NAME, sha256=tiny.manifest["files"][WEIGHTS_NAME]["sha256"].upper())
    tiny.open()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def make_sparse(path: Path) -> None:
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize("change", [cut, empty, append, make_sparse])
def test_other_size_is_refused_before_hashing_with_both_sizes(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], name: str
) -> None:
    """FAULTS 9"""
    expected = (tiny.directory / name).stat().st_size
    change(tiny.directory / name)
    found = (tiny.directory / name).stat().st_size
    monkeypatch.setattr(bundle_module, "_read_files", lambda *_: pytest.fail("was read"))
    for verify in (True, False):
        message = tiny.refusal(BundleIntegrityError, verify=verify)
        assert message == f"{tiny.directory}: {name} has {found} bytes, the manifest says {expected}"


@pytest.mark.parametrize("name", [GRAPH_NAME, TOKENIZER_NAME])
def test_file_too_large_to_hold_in_memory_is_not_read(tiny: Any, name: str) -> None:
    """FAULTS 9, 18"""
    os.truncate(tiny.directory / name, 1 << 40)
    tiny.write_entry(name, size=1 << 40)
    message = f"{name} has 1099511627776 bytes, at most 67108864 are read"
    assert message in tiny.refusal(verify=False)


def test_all_files_at_fault_are_listed_at_once(tiny: Any) -> None:
    (tiny.directory / GRAPH_NAME).unlink()
    append(tiny.weights_path)
    (tiny.directory / TOKENIZER_NAME).unlink()
    os.mkfifo(tiny.directory / TOKENIZER_NAME)
    message = tiny.refusal(BundleIntegrityError)
    assert f"{GRAPH_NAME} is missing; {WEIGHTS_NAME} has 7937 bytes" in message
    assert f"; {TOKENIZER_NAME} is a FIFO" in message


def test_all_wrong_digests_are_listed_at_once(tiny: Any) -> None:
    """FAULTS 8"""
    for name in LISTED:
        tiny.write_entry(name, sha256="0" * 64)
    message = tiny.refusal(BundleIntegrityError)
    assert all(f"{name} has SHA-256" in message for name in LISTED)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b'{"graph": []}', b"half"])
@pytest.mark.parametrize("verify", [True, False])
def test_graph_that_is_none_is_refused_even_when_the_digest_agrees(
    tiny: Any, content: bytes, verify: bool
) -> None:
    """FAULTS 12"""
    tiny.seal(content if content != b"half" else tiny.graph_path.read_bytes()[:1000])
    assert f"{GRAPH_NAME} is not a readable ONNX graph" in tiny.refusal(verify=verify)


def test_missing_tokenizer_is_named(tiny: Any) -> None:
    """FAULTS 18"""
    (tiny.directory / TOKENIZER_NAME).unlink()
    message = f"{tiny.directory}: {TOKENIZER_NAME} is missing"
    assert tiny.refusal(BundleIntegrityError) == message
    files = tiny.manifest["files"]
    del files[TOKENIZER_NAME]
    tiny.write_manifest(files=files)
    assert f"files does not list {TOKENIZER_NAME}" in tiny.refusal()


def test_progress_ends_with_all_bytes_hashed(tiny: Any) -> None:
    calls: list[tuple[int, int]] = []
    tiny.open(on_progress=lambda done, total: calls.append((done, total)))
    total = sum((tiny.directory / name).stat().st_size for name in LISTED)
    assert calls == sorted(calls)
    assert calls[-1] == (total, total)
    calls.clear()
    tiny.open(verify=False, on_progress=lambda done, total: calls.append((done, total)))
    assert calls == []


def open_files(root: Path) -> list[str]:
    """This process's open files below a directory."""
    links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    targets = [os.readlink(link) for link in links if link.is_symlink()]
    return [target for target in targets if target.startswith(str(root))]


def test_no_file_stays_open(tiny: Any) -> None:
    seen: list[str] = []
    tiny.open(on_progress=lambda done, total: seen.extend(open_files(tiny.directory)))
    assert str(tiny.graph_path) in seen
    assert open_files(tiny.directory) == []
    tiny.write_entry(GRAPH_NAME, sha256="0" * 64)
    tiny.refusal(BundleIntegrityError)
    append(tiny.weights_path)
    tiny.refusal(BundleIntegrityError)
    assert open_files(tiny.directory) == []
