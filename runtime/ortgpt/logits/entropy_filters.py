"""Filters that look at probabilities and entropy: epsilon, eta and the dynamic temperature.

They take one row of scores (vocab,), at least one of them finite; dropped tokens get -inf.
"""

from __future__ import annotations

import math

import numpy as np

from ortgpt.interfaces import Floats
from ortgpt.logits.survivors import LARGEST, find_survivors, keep_only, measure, relative_to_best
from ortgpt.logits.warpers import apply_temperature


def apply_epsilon(logits: Floats, epsilon: float) -> Floats:
    """Drop tokens less probable than epsilon; the best one stays (Hewitt 2022).

    logits float32 (vocab,), 0 <= epsilon <= 1; returns float32 (vocab,).
    """
    if epsilon <= 0:
        return logits.copy()
    kept, values = find_survivors(logits)
    relative = relative_to_best(values)
    normaliser = math.log(float(np.exp(relative).sum(dtype=np.float64)))
    return keep_only(logits, relative >= min(0.0, math.log(epsilon) + normaliser), kept)


def apply_eta(logits: Floats, epsilon: float) -> Floats:
    """Drop tokens less probable than min(epsilon, sqrt(epsilon) * exp(-entropy)) (Hewitt 2022).

    The best one stays. logits float32 (vocab,), 0 <= epsilon <= 1; returns float32 (vocab,).
    """
    if epsilon <= 0:
        return logits.copy()
    kept, values = find_survivors(logits)
    relative = relative_to_best(values)
    spread = measure(relative)
    log_eta = min(math.log(epsilon), math.log(epsilon) / 2 - spread.entropy)
    return keep_only(logits, relative >= min(0.0, log_eta + spread.normaliser), kept)


def apply_dynamic_temperature(logits: Floats, temperature: float, reach: float, exponent: float) -> Floats:
    """Divide by a temperature between temperature - reach and temperature + reach, by the entropy.

    The entropy as a share of the highest that the tokens left could have, to the power of the
    exponent, says where between the two: a sure model gets the lower one (llama.cpp's "dynatemp").
    The lower one is 0 at the least, and a single token is left as it is.

    logits float32 (vocab,), temperature, reach and exponent >= 0; returns float32 (vocab,).
    """
    values = find_survivors(logits)[1]
    count = int(np.count_nonzero(values > -np.inf))
    if count == 1:
        return logits.copy()
    share = min(1.0, measure(relative_to_best(values)).entropy / math.log(count))
    low, high = max(0.0, temperature - reach), min(temperature + reach, LARGEST)
    return apply_temperature(logits, low + (high - low) * share**exponent)
