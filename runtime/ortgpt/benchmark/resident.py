"""How much memory this process holds, in bytes; None where the system does not tell."""

from __future__ import annotations

import sys
from pathlib import Path

_PROCESS = Path("/proc/self")


def resident_bytes() -> int | None:
    """Now."""
    exact = _line("smaps_rollup", "Rss:")
    if exact is not None:
        return exact
    try:
        import resource

        pages = int((_PROCESS / "statm").read_text().split()[1])
        return pages * resource.getpagesize()
    except (ImportError, OSError, ValueError, IndexError):
        return None


def peak_bytes() -> int | None:
    """The most so far."""
    # Not getrusage where it can be avoided: a process begins there with what its parent held.
    exact = _line("status", "VmHWM:")
    if exact is not None:
        return exact
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _line(file: str, name: str) -> int | None:
    """A number that the system gives in kB."""
    try:
        lines = (_PROCESS / file).read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
