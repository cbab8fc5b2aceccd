"""Available memory is the least of what the system, the control group and the limits leave."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ortgpt.errors import ProviderError
from ortgpt.inference import memory


def test_the_address_space_limit_counts() -> None:
    code = (
        "import resource; from ortgpt.inference.memory import available_bytes;"
        "resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)); print(available_bytes())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(shown.stdout) < 2**30


def test_the_control_group_counts_and_its_file_cache_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("4000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    monkeypatch.setattr(memory, "_CGROUP_V2", tmp_path)
    assert memory.available_bytes() == 1_500_000


def test_a_control_group_without_limit_is_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr(memory, "_CGROUP_V2", tmp_path)
    monkeypatch.setattr(memory, "_CGROUP_V1", tmp_path / "none")
    assert memory._cgroup_room() is None


def test_too_little_memory_names_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 72"""
    monkeypatch.setattr(memory, "available_bytes", lambda: 3_000_000)
    with pytest.raises(ProviderError, match="the table needs 5 MB, 3 MB are available") as caught:
        memory.check_memory(5_000_000, "the table", "use less")
    assert caught.value.hint == "use less"
    memory.check_memory(3_000_000, "the table", "use less")
