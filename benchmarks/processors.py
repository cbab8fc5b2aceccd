"""How busy other processes keep the machine while something is measured (Linux)."""

from __future__ import annotations

import os
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_IDLE_COLUMNS = (3, 4)  # idle and waiting for input or output


class OtherProcesses:
    """From its creation to `share`: which part of all processors worked for others."""

    def __init__(self) -> None:
        self._begin, self._busy = time.perf_counter(), _busy_seconds()

    def share(self, own_cpu_s: float) -> float:
        """own_cpu_s: processor time of the measured process in between."""
        elapsed = (time.perf_counter() - self._begin) * (os.cpu_count() or 1)
        # The system counts in ticks: over a short time the difference says little, hence the bounds.
        return min(1.0, max(0.0, _busy_seconds() - self._busy - own_cpu_s - 2 / _TICKS) / elapsed)


def _busy_seconds() -> float:
    """Processor seconds since the start that were not idle, of all processors together."""
    with Path("/proc/stat").open() as file:
        columns = [int(column) for column in file.readline().split()[1:9]]
    return sum(ticks for i, ticks in enumerate(columns) if i not in _IDLE_COLUMNS) / _TICKS
