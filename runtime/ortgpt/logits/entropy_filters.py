"""Filters that look at probabilities and entropy: epsilon, eta and the dynamic temperature.

They take one row of scores (n,), at least one of them finite; filters say which stay, None for all.
"""

from __future__ import annotations

import math

import numpy as np

from ortgpt.interfaces import Floats
from ortgpt.logits.rows import row_for
from ortgpt.logits.survivors import (
    LARGEST,
    Kept,
    among,
    find_survivors,
    log_sum,
    measure,
    relative_to_best,
)
from ortgpt.logits.warpers import apply_temperature


def select_epsilon(scores: Floats, epsilon: float) -> Kept:
    """Tokens at least as probable as epsilon; the best one stays (Hewitt 2022). 0 <= epsilon <= 1."""
    if epsilon <= 0:
        return None
    earlier, values = find_survivors(scores)
    relative = relative_to_best(values)
    return among(earlier, relative >= min(0.0, math.log(epsilon) + log_sum(relative)))


def select_eta(scores: Floats, epsilon: float) -> Kept:
    """Tokens at least as probable as min(epsilon, sqrt(epsilon) * exp(-entropy)) (Hewitt 2022).

    The best one stays. 0 <= epsilon <= 1.
    """
    if epsilon <= 0:
        return None
    earlier, values = find_survivors(scores)
    relative = relative_to_best(values)
    spread = measure(relative)
    log_eta = min(math.log(epsilon), math.log(epsilon) / 2 - spread.entropy)
    return among(earlier, relative >= min(0.0, log_eta + spread.normaliser))


def apply_dynamic_temperature(
    logits: Floats, temperature: float, reach: float, exponent: float, out: Floats | None = None
) -> Floats:
    """Divide by a temperature between temperature - reach and temperature + reach, by the entropy.

    The entropy as a share of the highest that the tokens left could have, to the power of the
    exponent, says where between the two: a sure model gets the lower one (llama.cpp's "dynatemp").
    The lower one is 0 at the least, and a single token is left as it is.

    logits float32 (n,), temperature, reach and exponent >= 0; returns float32 (n,), in `out` if given, which
    may be the row itself.
    """
    values = find_survivors(logits).scores
    count = int(np.count_nonzero(values > -np.inf))
    if count == 1:
        return row_for(logits, out)
    share = min(1.0, measure(relative_to_best(values)).entropy / math.log(count))
    low, high = max(0.0, temperature - reach), min(temperature + reach, LARGEST)
    return apply_temperature(logits, low + (high - low) * share**exponent, out)
