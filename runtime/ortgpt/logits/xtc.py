"""XTC, "exclude top choices": now and then the obvious tokens are taken away."""

from __future__ import annotations

import math

from ortgpt.interfaces import Floats
from ortgpt.logits.survivors import Kept, among, find_survivors, log_sum, relative_to_best


def select_xtc(scores: Floats, threshold: float) -> Kept:
    """Of the tokens with at least this probability only the least probable, and all others.

    With fewer than two of them all stay. Ties with the least probable stay. So that it
    happens only now and then, the caller draws first. (Weidmann 2024, as in llama.cpp.)

    scores float32 (n,), 0 < threshold <= 0.5.
    """
    earlier, values = find_survivors(scores)
    relative = relative_to_best(values)
    is_top = relative >= math.log(threshold) + log_sum(relative)
    if not is_top.any():
        return None
    return among(earlier, relative <= relative[is_top].min())
