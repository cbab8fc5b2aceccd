"""Drawing a token from a row of scores."""

from __future__ import annotations

import numpy as np

from ortgpt.errors import ConstraintError
from ortgpt.interfaces import Floats


def draw(scores: Floats, rng: np.random.Generator) -> int:
    """Draw an id with the probabilities softmax(scores); -inf is never drawn.

    Takes exactly one uniform number from `rng`: the inverse of the cumulative distribution, over
    the ids in order, in float64. scores float32 (vocab,). Raises ConstraintError when all are -inf.
    """
    ids = np.flatnonzero(scores > -np.inf)
    if not ids.size:
        raise ConstraintError("no token is left to draw from")
    values = scores[ids]  # (ids,)
    with np.errstate(over="ignore"):
        cumulative = np.exp(values - values.max()).cumsum(dtype=np.float64)
    index = int(cumulative.searchsorted(rng.random() * cumulative[-1], side="right"))
    # Rounding can reach the total: then it is the last id that weighs anything.
    last = int(cumulative.searchsorted(cumulative[-1]))
    return int(ids[min(index, last)])
