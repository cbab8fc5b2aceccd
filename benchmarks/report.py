"""Figures as a table for people and as one JSON line for programs."""

from __future__ import annotations

import json
import operator
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple


class Spread(NamedTuple):
    """Of figures taken in several rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def scaled(self, factor: float) -> Spread:
        return Spread(*(factor * value for value in self))

    def __str__(self) -> str:
        return f"{_short(self.median)} [{_short(self.low)} .. {_short(self.high)}]"


class Target(NamedTuple):
    """What a figure should reach: ">=", "<=" or "<" a limit."""

    sign: str
    limit: float

    def judge(self, value: float) -> dict[str, Any]:
        """The value against the limit, as data and as a text for the table."""
        compare = {">=": operator.ge, "<=": operator.le, "<": operator.lt}[self.sign]
        is_met = compare(value, self.limit)
        text = f"{self.sign} {self.limit:g}: {'ok' if is_met else 'falls short'}"
        return {"value": value, "limit": self.limit, "met": is_met, "text": text}


def paired(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """Ratios of what was measured in the same round."""
    return Spread.of([a / b for a, b in zip(numerators, denominators, strict=True)])


def table(rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest entry; the first one to the left, the others to the right."""
    cells = [[*row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = []
    for row in cells:
        padded = [row[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def json_line(document: dict[str, Any]) -> str:
    """One line; spreads become {"median", "low", "high"}, numbers keep five digits."""
    return json.dumps(_plain(document))


def describe_machine(packages: Sequence[str]) -> dict[str, Any]:
    """Processor, processors, Python and the packages' versions."""
    return {
        "processor": _processor_name(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: found for name in packages if (found := _installed(name))},
    }


def _short(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def _plain(value: Any) -> Any:
    if isinstance(value, Spread):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
