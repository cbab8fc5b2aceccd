"""Where a running sum reaches a target, without computing all of it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ortgpt.interfaces import Floats

BLOCK = 256

Side = Literal["left", "right"]


def find_crossing(weights: Floats, share: float, side: Side) -> int:
    """The first index at which weights.cumsum() is at least `share` of the total.

    With side "right": is above it, so that an entry that weighs nothing is never found. Sums are in
    float64, over blocks first and then inside one, since a running sum is slow. Where rounding hides
    the crossing, the last entry that weighs anything is it.

    weights float32 (n,), none negative, not all 0; 0 <= share <= 1.
    """
    if weights.size <= BLOCK:
        sums = weights.cumsum(dtype=np.float64)  # (n,)
        return _find(sums, share * sums[-1], side)
    starts = np.arange(0, weights.size, BLOCK)
    edges = np.add.reduceat(weights, starts, dtype=np.float64).cumsum()  # (blocks,)
    target = share * edges[-1]
    block = _find(edges, target, side)
    start, before = block * BLOCK, edges[block - 1] if block else 0.0
    inside = weights[start : start + BLOCK].cumsum(dtype=np.float64)  # (up to BLOCK,)
    return start + _find(inside, target - before, side)


def _find(sums: NDArray[np.float64], target: float, side: Side) -> int:
    return min(int(sums.searchsorted(target, side)), int(sums.searchsorted(sums[-1])))
