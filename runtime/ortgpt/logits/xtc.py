"""XTC, "exclude top choices": now and then the obvious tokens are taken away."""

from __future__ import annotations

import math

import numpy as np

from ortgpt.interfaces import Floats
from ortgpt.logits.survivors import find_survivors, keep_only, relative_to_best


def apply_xtc(logits: Floats, threshold: float) -> Floats:
    """Of the tokens with at least this probability drop all but the least probable.

    With fewer than two of them nothing is dropped. Ties with the least probable stay. So that it
    happens only now and then, the caller draws first. (Weidmann 2024, as in llama.cpp.)

    logits float32 (vocab,), 0 < threshold <= 0.5; returns float32 (vocab,).
    """
    kept, values = find_survivors(logits)
    relative = relative_to_best(values)
    normaliser = math.log(float(np.exp(relative).sum(dtype=np.float64)))
    is_top = relative >= math.log(threshold) + normaliser
    if not is_top.any():
        return logits.copy()
    return keep_only(logits, relative <= relative[is_top].min(), kept)
