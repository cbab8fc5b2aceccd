"""Folders to run commands and programs in, as a user's clone would be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run() -> Run:
    """run(*command, cwd) with this environment's `ortgpt` and `python` first on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    def start(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
        )

    return start


@pytest.fixture
def clone(storyteller: Path, tmp_path: Path) -> Path:
    """A folder with models/storyteller, as in a fresh clone."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "storyteller").symlink_to(storyteller)
    return tmp_path


@pytest.fixture
def clone_with_bundle(clone: Path, storyteller_bundle: Path) -> Path:
    """The same after `make demo`: models/storyteller-fp32 is there too."""
    (clone / "models" / "storyteller-fp32").symlink_to(storyteller_bundle)
    return clone
