"""Charts of how decoding grows with context and rows, of what `ortgpt bench --growth --json` has printed.

ortgpt bench BUNDLE --growth --json > build/int8.json
python benchmarks/growth_chart.py docs/images/growth int8=build/int8.json fp32=build/fp32.json

Writes NAME-context.svg (milliseconds per token) and NAME-rows.svg (tokens per second).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from chart import Axis, Point, lines


def main() -> None:
    target, *named = sys.argv[1:]
    found: dict[str, dict[str, Any]] = {}
    for pair in named:
        name, _, path = pair.partition("=")
        found[name] = json.loads(Path(path).read_text())
    contexts = {
        name: [Point(one["context"], 1e3 * one["step_s"]["median"], "") for one in document["contexts"]]
        for name, document in found.items()
    }
    rows = {
        name: [Point(one["rows"], one["tokens_per_s"]["median"], "") for one in document["decode"]]
        for name, document in found.items()
    }
    save(
        f"{target}-context.svg",
        lines(
            "A token's time by context, one row",
            Axis("tokens of context", (0, 200, 400, 600, 800, 1000)),
            Axis("ms per token", ticks(max(point.y for line in contexts.values() for point in line))),
            contexts,
        ),
    )
    save(
        f"{target}-rows.svg",
        lines(
            "Tokens per second by rows",
            Axis("rows", (1, 2, 4, 8, 16, 32, 64), is_log=True),
            Axis("tokens/s, all rows", ticks(max(point.y for line in rows.values() for point in line))),
            rows,
        ),
    )


def ticks(largest: float) -> list[float]:
    """Six round numbers from 0 to beyond the largest."""
    scale = 10 ** (len(str(int(largest))) - 1)
    step = next(step for step in (scale / 5, scale / 2, scale, 2 * scale) if 5 * step >= largest)
    return [step * number for number in range(6)]


def save(path: str, picture: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(picture)


if __name__ == "__main__":
    main()
