"""A picture of compare.py's last line: how many times faster ortgpt is than the best peer of each class.

python benchmarks/peers/compare.py > build/peers/report.txt
python benchmarks/peers/picture.py build/peers/report.txt > docs/images/peers.svg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # chart.py and its neighbours

from chart import Axis, bars

CELLS = {
    "decode_1_row": "decode, 1 row",
    "decode_batch": "8 rows",
    "prefill": "prefill 512",
    "beam": "5 beams",
}


def main() -> None:
    document = json.loads(Path(sys.argv[1]).read_text().strip().splitlines()[-1])
    groups = {label: best_ratios(document, cell) for cell, label in CELLS.items()}
    axis = Axis("times the best peer of the class", (0, 0.5, 1, 1.5, 2, 2.5, 3))
    print(bars("ortgpt beside the fastest other engine (1 is level)", axis, groups), end="")


def best_ratios(document: dict[str, Any], cell: str) -> dict[str, float]:
    """By bundle of ours: the median ratio to the peer that is the fastest in this cell."""
    found = {}
    for ours, peers in document["best_peer"].items():
        if cell in peers:
            found[ours.removeprefix("ortgpt ")] = document["ratios"][ours][peers[cell]][cell]["median"]
    return found


if __name__ == "__main__":
    main()
