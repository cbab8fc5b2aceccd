"""What other processes take of the processors, from a /proc/stat of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from ortgpt.benchmark import processors
from ortgpt.benchmark.processors import OtherProcesses


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """machine(seconds, busy, idle) sets the clock and what the system counts; two processors."""
    file = tmp_path / "stat"
    now = [0.0]
    monkeypatch.setattr(processors, "_STAT", file)
    monkeypatch.setattr(processors, "_ticks", lambda: 100)
    monkeypatch.setattr(processors.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(processors.os, "cpu_count", lambda: 2)

    def set_(seconds: float, busy: int, idle: int) -> None:
        now[0] = seconds
        file.write_text(f"cpu  {busy} 0 0 {idle} 7 0 0 0 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n")

    set_(0.0, 500, 500)
    return set_


def test_the_share_is_what_was_busy_less_our_own(machine) -> None:
    others = OtherProcesses()
    machine(10.0, 500 + 1200, 500 + 800)
    # 12 s of 20 were busy, 7 of them ours; two ticks are within what the system rounds.
    assert others.share(7.0) == pytest.approx((12 - 7 - 0.02) / 20)


def test_the_share_stays_between_0_and_1(machine) -> None:
    others = OtherProcesses()
    machine(10.0, 600, 2400)
    assert others.share(5.0) == 0.0
    machine(0.1, 5000, 500)
    assert others.share(0.0) == 1.0


def test_a_system_that_does_not_tell_gives_none(machine, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(processors, "_STAT", tmp_path / "none")
    assert OtherProcesses().share(0.0) is None
