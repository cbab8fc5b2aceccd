"""How much memory this process may still take, so that a refusal can name both numbers."""

from __future__ import annotations

from pathlib import Path

from ortgpt.errors import ProviderError

_CGROUP_V2 = Path("/sys/fs/cgroup")
_CGROUP_V1 = Path("/sys/fs/cgroup/memory")


def available_bytes() -> int | None:
    """The least of free memory, the control group's room and the address-space limit.

    None where the system tells none of them.
    """
    rooms = [_free_memory(), _cgroup_room(), _address_space_room()]
    known = [room for room in rooms if room is not None]
    return max(0, min(known)) if known else None


def check_memory(needed: int, purpose: str, hint: str) -> None:
    """Raise ProviderError when `needed` bytes are more than there is."""
    available = available_bytes()
    if available is not None and needed > available:
        raise ProviderError(
            f"{purpose} needs {needed / 1e6:,.0f} MB, {available / 1e6:,.0f} MB are available", hint=hint
        )


def _free_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroup_room() -> int | None:
    for limit, usage, cache in (
        (_CGROUP_V2 / "memory.max", _CGROUP_V2 / "memory.current", "inactive_file "),
        (_CGROUP_V1 / "memory.limit_in_bytes", _CGROUP_V1 / "memory.usage_in_bytes", "total_inactive_file "),
    ):
        try:
            limit_bytes = int(limit.read_text())  # "max" is a ValueError: no limit
            used = int(usage.read_text())
            stat = (limit.parent / "memory.stat").read_text().splitlines()
        except (OSError, ValueError):
            continue
        # File cache counts as used but gives way; without this a big download looks like a leak.
        reclaimable = sum(int(line.split()[1]) for line in stat if line.startswith(cache))
        return limit_bytes - used + reclaimable
    return None


def _address_space_room() -> int | None:
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit == resource.RLIM_INFINITY:
            return None
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        return limit - pages * resource.getpagesize()
    except (ImportError, OSError, ValueError):
        return None
