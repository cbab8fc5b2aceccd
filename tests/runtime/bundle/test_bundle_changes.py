"""ortgpt.bundle.bundle: damaged files, and files that change while they are read."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ortgpt.bundle import files
from ortgpt.errors import BundleError, BundleIntegrityError
from ortgpt.manifest import (
    GENERATION_CONFIG_NAME,
    GRAPH_NAME,
    MANIFEST_NAME,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
)

LISTED = (GRAPH_NAME, WEIGHTS_NAME, TOKENIZER_NAME, GENERATION_CONFIG_NAME)


def flip_bit(path: Path, source: random.Random) -> bytes:
    """Flip one bit; returns the old content."""
    old = path.read_bytes()
    new = bytearray(old)
    new[source.randrange(len(new))] ^= 1 << source.randrange(8)
    path.write_bytes(new)
    return old


def test_one_flipped_bit_in_any_listed_file_is_an_integrity_error(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 10"""
    monkeypatch.setattr(files, "CLOCK_TICK_NS", 0)  # nothing else writes here: no need to wait
    source = random.Random(10)
    sizes = [entry["size"] for entry in tiny.manifest["files"].values()]
    for _ in range(300):
        (name,) = source.choices(list(tiny.manifest["files"]), sizes)
        old = flip_bit(tiny.directory / name, source)
        assert f"{name} has SHA-256" in tiny.refusal(BundleIntegrityError)
        (tiny.directory / name).write_bytes(old)
    tiny.open()


def test_one_flipped_bit_in_the_manifest_changes_no_file_and_no_shape(tiny: Any) -> None:
    """FAULTS 10: the manifest has no digest; what a flip can reach unseen is its description only."""
    source = random.Random(11)
    intact = tiny.open()
    checked = ("layers", "heads", "head_size", "cache_head_size", "width", "context", "vocab_size")
    refused = 0
    for _ in range(400):
        old = flip_bit(tiny.directory / MANIFEST_NAME, source)
        try:
            bundle = tiny.open()
        except BundleError:
            refused += 1
        else:
            assert bundle.graph == intact.graph
            assert bundle.tokenizer == intact.tokenizer
            assert bundle.manifest.files == intact.manifest.files
            for name in checked:
                assert getattr(bundle.manifest.architecture, name) == getattr(
                    intact.manifest.architecture, name
                )
        (tiny.directory / MANIFEST_NAME).write_bytes(old)
    assert refused > 200


def test_without_verifying_a_flipped_bit_gives_a_bundle_or_a_bundle_error(tiny: Any) -> None:
    """FAULTS 10"""
    source = random.Random(12)
    opened = refused = 0
    for _ in range(300):
        old = flip_bit(tiny.graph_path, source)
        try:
            tiny.open(verify=False)
            opened += 1
        except BundleError:
            refused += 1
        tiny.graph_path.write_bytes(old)
    assert opened > 10
    assert refused > 10


def replace(path: Path, data: bytes) -> None:
    path.with_suffix(".new").write_bytes(data)
    os.replace(path.with_suffix(".new"), path)


def test_graph_swapped_while_digests_are_computed_is_not_what_the_bundle_holds(tiny: Any) -> None:
    """FAULTS 11"""
    good = tiny.graph_path.read_bytes()
    swaps = iter([b"evil"])

    def swap(done: int, total: int) -> None:
        for data in swaps:
            replace(tiny.graph_path, data)

    tiny.write_manifest(files=dict(reversed(tiny.manifest["files"].items())))  # the graph comes last
    assert tiny.open(on_progress=swap).graph == good
    assert tiny.graph_path.read_bytes() == b"evil"


def overwrite(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.write(data)


def overwrite_and_set_times_back(path: Path, data: bytes) -> None:
    status = path.stat()
    overwrite(path, data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def swap_and_swap_back(path: Path, data: bytes) -> None:
    os.rename(path, path.with_suffix(".good"))
    replace(path, data)
    os.replace(path.with_suffix(".good"), path)


def remove(path: Path, data: bytes) -> None:
    path.unlink()


CHANGES = [replace, overwrite, overwrite_and_set_times_back, swap_and_swap_back, remove]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("verify", [True, False])
def test_weights_changed_between_hashing_and_mapping_are_found(
    tiny: Any, change: Callable[[Path, bytes], None], verify: bool
) -> None:
    """FAULTS 11"""
    bundle = tiny.open(verify=verify)
    bundle.check_weights_unchanged()
    change(tiny.weights_path, bytes(tiny.weights_path.stat().st_size))
    with pytest.raises(BundleIntegrityError, match=WEIGHTS_NAME):
        bundle.check_weights_unchanged()


def test_weights_changed_while_they_are_hashed_are_found(tiny: Any) -> None:
    """FAULTS 11: the change comes behind the place that has been hashed."""
    changes = iter([b"evil"])

    def change(done: int, total: int) -> None:
        for data in changes:
            overwrite(tiny.weights_path, data)

    entries = tiny.manifest["files"]
    tiny.write_manifest(files={WEIGHTS_NAME: entries.pop(WEIGHTS_NAME)} | entries)  # hashed first
    message = tiny.refusal(BundleIntegrityError, on_progress=change)
    assert f"{WEIGHTS_NAME} changed while it was read" in message


def test_whatever_a_swapping_thread_does_only_good_weights_pass(tiny: Any, tmp_path: Path) -> None:
    """FAULTS 11: reads the file by its name between the two checks, as onnxruntime does."""
    good = tiny.weights_path.read_bytes()
    (tmp_path / "evil").write_bytes(bytes(len(good)))
    os.link(tiny.weights_path, tmp_path / "good")
    stop = threading.Event()

    def swap() -> None:
        pause = random.Random(0)
        while not stop.is_set():
            for name in ("evil", "good"):
                os.link(tmp_path / name, tmp_path / "next")
                os.replace(tmp_path / "next", tiny.weights_path)
                stop.wait(pause.uniform(0, 0.05))

    thread = threading.Thread(target=swap)
    thread.start()
    passed: list[bytes] = []
    refused = 0
    try:
        while refused < 20:
            try:
                bundle = tiny.open()
                seen = tiny.weights_path.read_bytes()
                bundle.check_weights_unchanged()
                passed.append(seen)
            except BundleIntegrityError:
                refused += 1
    finally:
        stop.set()
        thread.join()
    assert set(passed) <= {good}
    replace(tiny.weights_path, good)
    tiny.open().check_weights_unchanged()


def test_manifest_that_the_export_writes_is_the_one_that_is_read(tiny: Any) -> None:
    """FAULTS 3"""
    manifest = tiny.open().manifest
    (tiny.directory / MANIFEST_NAME).write_text(manifest.to_json())
    assert tiny.open().manifest == manifest
    assert next(iter(json.loads(manifest.to_json()))) == "schema_version"
