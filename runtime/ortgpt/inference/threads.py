"""How many processors there are to run on."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def default_threads() -> int:
    """Processors that this process may use: its affinity, cut by the control group's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, int(quota) // int(period)))  # "max" is a ValueError: no quota
    return count
