"""Drawing a token from a row of scores."""

from __future__ import annotations

import numpy as np

from ortgpt.errors import ConstraintError
from ortgpt.interfaces import Floats
from ortgpt.logits.cumulative import find_crossing


def draw(scores: Floats, rng: np.random.Generator) -> int:
    """Draw an id with the probabilities softmax(scores); -inf is never drawn.

    Takes exactly one uniform number from `rng`: the inverse of the cumulative distribution, over
    the ids in order, in float64. scores float32 (vocab,). Raises ConstraintError when all are -inf.
    """
    peak = scores.max()
    if peak == -np.inf:
        raise ConstraintError("no token is left to draw from")
    is_kept = scores > -np.inf
    is_sparse = np.count_nonzero(is_kept) < scores.size // 8  # then the rest is not worth computing
    kept = np.flatnonzero(is_kept) if is_sparse else None
    with np.errstate(over="ignore"):
        weights = (scores if kept is None else scores[kept]) - peak
    np.exp(weights, out=weights)
    index = find_crossing(weights, rng.random(), "right")
    return index if kept is None else int(kept[index])
