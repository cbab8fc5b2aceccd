"""The memory of this process, as the system tells it."""

from __future__ import annotations

import resource as system
from pathlib import Path

import numpy as np
import pytest

from ortgpt.benchmark import resident
from ortgpt.benchmark.resident import peak_bytes, resident_bytes

SIZE = 64 << 20


def test_memory_that_is_written_is_resident_and_the_peak_stays() -> None:
    before = resident_bytes()
    held = np.ones(SIZE, np.uint8)
    during = resident_bytes()
    assert during - before > 0.9 * SIZE
    del held
    assert resident_bytes() < during - 0.9 * SIZE
    assert peak_bytes() >= 0.99 * during


def test_without_the_exact_count_pages_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "_PROCESS", tmp_path)
    (tmp_path / "statm").write_text("500 120 3 4 0 5 0\n")
    assert resident_bytes() == 120 * system.getpagesize()


def test_a_system_without_proc_gives_none_and_the_peak_that_it_has(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(resident, "_PROCESS", tmp_path / "none")
    assert resident_bytes() is None
    most = system.getrusage(system.RUSAGE_SELF).ru_maxrss
    assert peak_bytes() == 1024 * most
    monkeypatch.setattr(resident.sys, "platform", "darwin")  # counts in bytes
    assert peak_bytes() == most
