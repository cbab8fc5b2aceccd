"""A manifest comes whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from ortgpt.adoption.manifest_file import write_manifest
from ortgpt.errors import OrtgptError


class Written:
    def __init__(self, text: str) -> None:
        self._text = text

    def to_json(self) -> str:
        return self._text


def write(directory: Path, text: str) -> None:
    manifest: Any = Written(text)
    write_manifest(directory, manifest)


def test_it_is_written_with_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    write(tmp_path, "{}\n")
    (tmp_path / "other").touch()
    assert (tmp_path / "manifest.json").read_text() == "{}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "other"]
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("manifest.json", "other")}
    assert len(modes) == 1


@pytest.mark.parametrize("broken", ["write", "fsync", "replace"])
def test_a_failure_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    write(tmp_path, "old")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    if broken == "write":
        manifest: Any = Written("x")
        monkeypatch.setattr(Written, "to_json", fail)
    else:
        manifest = Written("new")
        monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OrtgptError, match="can't be written: No space left on device"):
        write_manifest(tmp_path, manifest)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert (tmp_path / "manifest.json").read_text() == "old"


def test_a_directory_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(OrtgptError, match=r"manifest\.json can't be written: No such file"):
        write(tmp_path / "missing", "x")
