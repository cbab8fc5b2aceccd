"""Drawing a token from a row of scores."""

from __future__ import annotations

import numpy as np

from ortgpt.errors import ConstraintError
from ortgpt.interfaces import Floats
from ortgpt.logits.cumulative import find_crossing
from ortgpt.logits.survivors import find_survivors, weigh
from ortgpt.numerics import DROPPED


def draw(scores: Floats, rng: np.random.Generator) -> int:
    """Draw an index with the probabilities softmax(scores); -inf is never drawn.

    Takes exactly one uniform number from `rng`: the inverse of the cumulative distribution, over
    the scores in order, in float64. scores float32 (n,). Raises ConstraintError when all are -inf.
    """
    left = find_survivors(scores)  # what is dropped is not worth an exponential
    if not left.scores.size or left.scores.max() == DROPPED:
        raise ConstraintError("no token is left to draw from")
    return left.token_id(find_crossing(weigh(left.scores), rng.random(), "right"))
