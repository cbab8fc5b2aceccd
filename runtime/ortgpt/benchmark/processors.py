"""How busy other processes keep the machine while something is measured."""

from __future__ import annotations

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
_IDLE_COLUMNS = (3, 4)  # idle and waiting for input or output


class OtherProcesses:
    """From its creation to `share`: which part of all processors worked for others."""

    def __init__(self) -> None:
        self._begin, self._busy = time.perf_counter(), _busy_seconds()

    def share(self, own_cpu_s: float) -> float | None:
        """None: not known. own_cpu_s: processor time of the measured process in between."""
        busy = _busy_seconds()
        if busy is None or self._busy is None:
            return None
        elapsed = (time.perf_counter() - self._begin) * (os.cpu_count() or 1)
        # The system counts in ticks: over a short time the difference says little, hence the bounds.
        return min(1.0, max(0.0, busy - self._busy - own_cpu_s - 2 / _ticks()) / elapsed)


def _busy_seconds() -> float | None:
    """Processor seconds since the start that were not idle, of all processors together."""
    try:
        with _STAT.open() as file:
            columns = [int(column) for column in file.readline().split()[1:9]]
    except OSError:
        return None
    return sum(ticks for i, ticks in enumerate(columns) if i not in _IDLE_COLUMNS) / _ticks()


def _ticks() -> int:
    """Per second."""
    return os.sysconf("SC_CLK_TCK")
