"""ortgpt.bundle.bundle: whatever lies in the directory, the outcome is a checked Bundle or a BundleError."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from ortgpt.bundle import files as files_module
from ortgpt.bundle.bundle import open_bundle
from ortgpt.errors import BundleError, BundleIntegrityError, OptionError
from ortgpt.manifest import (
    GENERATION_CONFIG_NAME,
    GRAPH_NAME,
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
)

LISTED = (GRAPH_NAME, WEIGHTS_NAME, TOKENIZER_NAME, GENERATION_CONFIG_NAME)


def refusal(directory: Any, kind: type[BundleError] = BundleError, **options: Any) -> BundleError:
    with pytest.raises(BundleError) as caught:
        open_bundle(directory, **options)
    assert type(caught.value) is kind
    return caught.value


def test_whole_bundle_opens_and_holds_what_was_hashed(tiny: Any) -> None:
    for directory in (tiny.directory, str(tiny.directory)):
        bundle = open_bundle(directory)
        assert hashlib.sha256(bundle.graph).hexdigest() == bundle.manifest.files[GRAPH_NAME].sha256
        assert bundle.tokenizer == (tiny.directory / TOKENIZER_NAME).read_bytes()
        assert bundle.weights_path == tiny.weights_path
        assert bundle.identities[WEIGHTS_NAME].inode == tiny.weights_path.stat().st_ino
        assert bundle.verified
        assert bundle.manifest.probe.text == "a"
        bundle.check_weights_unchanged()


def test_files_that_are_not_listed_are_left_alone(tiny: Any) -> None:
    (tiny.directory / "README.md").write_text("about")
    os.mkfifo(tiny.directory / "pipe")
    (tiny.directory / "loop").symlink_to("loop")
    assert tiny.open().manifest.files.keys() == set(LISTED)


def test_further_listed_files_are_checked(tiny: Any) -> None:
    """FAULTS 8"""
    (tiny.directory / "LICENSE").write_text("free")
    tiny.write_manifest(files=tiny.manifest["files"] | {"LICENSE": {}})
    tiny.seal()
    tiny.open()
    (tiny.directory / "LICENSE").write_text("evil")
    assert "LICENSE has SHA-256" in str(refusal(tiny.directory, BundleIntegrityError))


# --- the path


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "/nowhere/at/all"])
def test_missing_path_is_named(tmp_path: Path, name: str) -> None:
    """FAULTS 1"""
    error = refusal(tmp_path / name)
    assert f"there is no bundle at '{tmp_path / name}'" in str(error)
    assert error.hint is None


def test_path_of_a_file_is_named(tiny: Any) -> None:
    """FAULTS 1"""
    assert str(refusal(tiny.graph_path)) == f"{tiny.graph_path} is a file, a bundle is a directory"
    assert "there is no bundle at" in str(refusal(tiny.graph_path / "below"))


def test_unreadable_directory_is_named(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 1: by a stand-in, since permissions do not bind every user that runs tests."""

    def refuse(path: Any) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    assert str(refusal(tiny.directory)) == f"'{tiny.directory}' can't be read: Permission denied"


@pytest.mark.parametrize("name", [MANIFEST_NAME, *LISTED])
def test_unreadable_file_is_named(tiny: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """FAULTS 1"""
    really_open = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied")
        return really_open(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    assert str(refusal(tiny.directory)) == f"{tiny.directory}: {name} can't be read: Permission denied"


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "\ud800"])
def test_impossible_path_is_a_bundle_error(path: str) -> None:
    """FAULTS 1"""
    assert len(str(refusal(path))) < 500


@pytest.mark.parametrize("path", [None, 3, b"models", ["models"]])
def test_what_is_no_path_is_an_option_error(path: Any) -> None:
    with pytest.raises(OptionError, match="directory must be a path"):
        open_bundle(path)


def test_empty_path_does_not_mean_the_current_directory(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.directory)
    assert "there is no bundle at ''" in str(refusal(""))
    open_bundle(".")


@pytest.mark.parametrize(
    "weights", ["model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin"]
)
def test_checkpoint_is_recognised_and_the_export_command_shown(tmp_path: Path, weights: str) -> None:
    """FAULTS 1"""
    checkpoint = tmp_path / "my model"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    assert "has no manifest.json" in str(refusal(checkpoint))
    (checkpoint / weights).write_bytes(b"")
    error = refusal(checkpoint)
    assert str(error) == f"{checkpoint} is a checkpoint, not a bundle"
    assert error.hint == f"a checkpoint is turned into a bundle by: ortgpt export '{checkpoint}' -o OUT"


@pytest.mark.parametrize("name", ["gpt2", "openai-community/gpt2", "org/gpt2_small.v1"])
def test_hub_id_is_recognised_and_the_export_command_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """FAULTS 1"""
    monkeypatch.chdir(tmp_path)
    error = refusal(name)
    assert str(error) == f"there is no bundle at '{name}'"
    assert error.hint == f"a checkpoint is turned into a bundle by: ortgpt export {name} -o OUT"


@pytest.mark.parametrize("name", ["./gpt2", "a/b/c", "../gpt2", "-rf", "a b", "gpt2/"])
def test_what_is_no_hub_id_gets_no_such_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal(name).hint is None


# --- the manifest


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[]",
        b"[" * 100_000,
        b'{"layers": ' + b"9" * 5000 + b"}",
        b'{"schema_version": NaN}',
        b"\xff\xfe\xff",
        b" " * (MAX_MANIFEST_BYTES + 1),
        b"{}",
    ],
)
def test_broken_manifest_is_a_bundle_error_that_says_manifest(tiny: Any, content: bytes) -> None:
    """FAULTS 2"""
    (tiny.directory / MANIFEST_NAME).write_bytes(content)
    assert str(refusal(tiny.directory)).startswith(f"{tiny.directory}: manifest")


def test_missing_manifest_is_named(tiny: Any) -> None:
    """FAULTS 2"""
    (tiny.directory / MANIFEST_NAME).unlink()
    assert str(refusal(tiny.directory)) == f"{tiny.directory} is not a bundle: it has no manifest.json"


def test_sparse_manifest_of_a_terabyte_is_not_read(tiny: Any) -> None:
    """FAULTS 2, 9"""
    with (tiny.directory / MANIFEST_NAME).open("r+b") as file:
        file.truncate(1 << 40)
    assert "manifest.json has 1099511627776 bytes, at most 1048576 are read" in str(refusal(tiny.directory))


def test_newer_minor_version_with_an_unknown_key_opens_with_a_warning(
    tiny: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """FAULTS 3"""
    tiny.write_manifest(schema_version="1.7", colour="blue")
    with caplog.at_level(logging.WARNING, "ortgpt"):
        assert tiny.open().manifest.schema_version == "1.7"
    assert "unknown key 'colour'" in caplog.text


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "C:\\x", "C:x", "a\0b", "x" * 5000, "CON", "..", ""]
)
def test_file_name_that_leaves_the_bundle_is_refused_before_any_file_is_opened(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """FAULTS 4"""
    tiny.write_manifest(files=tiny.manifest["files"] | {name: {"size": 1, "sha256": "0" * 64}})
    opened: list[str] = []
    really_open = files_module.open_regular
    monkeypatch.setattr(
        files_module, "open_regular", lambda path, root: opened.append(path.name) or really_open(path, root)
    )
    assert "files: " in str(refusal(tiny.directory))
    assert opened == [MANIFEST_NAME]


def test_number_of_files_is_bounded(tiny: Any) -> None:
    """FAULTS 2"""
    entries = {f"file{number}": {"size": 0, "sha256": "0" * 64} for number in range(97)}
    tiny.write_manifest(files=tiny.manifest["files"] | entries)
    assert "the manifest lists 101 files, at most 100 are read" in str(refusal(tiny.directory))
