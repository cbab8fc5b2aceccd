"""Warpers: cut a distribution down to what may be drawn. The best token always survives.

They take one row of scores (vocab,), at least one of them finite; dropped tokens get -inf. Where a
filter needs to sort or sum, it does so among the tokens that earlier ones left.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ortgpt.interfaces import Floats

DROPPED = np.float32(-np.inf)
FLOAT32 = np.finfo(np.float32)


def apply_temperature(logits: Floats, temperature: float) -> Floats:
    """Divide the scores by the temperature, after moving the best to 0, which softmax ignores.

    So a tiny temperature can't overflow: it leaves the best alone. logits float32 (vocab,),
    temperature > 0; returns float32 (vocab,).
    """
    relative = _relative(logits)
    if temperature < FLOAT32.tiny:
        return np.where(relative < 0, DROPPED, relative)
    with np.errstate(over="ignore"):
        relative /= np.float32(min(temperature, float(FLOAT32.max)))
    return relative


def apply_top_k(logits: Floats, k: int) -> Floats:
    """Keep the k best; ties with the k-th survive; k = 0 or k >= vocab keeps all (Fan 2018).

    logits float32 (vocab,); returns float32 (vocab,).
    """
    if not 0 < k < logits.size:
        return logits.copy()
    smallest = np.partition(logits, logits.size - k)[logits.size - k]
    return np.where(logits < smallest, DROPPED, logits)


def apply_top_p(logits: Floats, p: float) -> Floats:
    """Keep the smallest set of best tokens whose probabilities sum to p or more (Holtzman 2020).

    The token that crosses p stays; p = 0 keeps the best one. Of equal scores at the border those
    with lower ids stay. logits float32 (vocab,), 0 <= p <= 1; returns float32 (vocab,).
    """
    if p >= 1:
        return logits.copy()
    kept = _finite(logits)
    values = logits[kept]  # (kept,)
    weights = np.exp(_relative(values))
    total = float(weights.sum(dtype=np.float64))
    # All tokens below this weight weigh less than 1 - p together: only the rest needs sorting.
    floor = (1 - p) * total / values.size
    head = np.sort(values[weights >= floor])[::-1]  # best first
    mass = np.exp(_relative(head)).cumsum(dtype=np.float64)
    count = min(int(mass.searchsorted(p * total)) + 1, head.size)
    smallest = head[count - 1]
    num_equal = count - int((head > smallest).sum())
    survivors = values > smallest
    survivors[np.flatnonzero(values == smallest)[:num_equal]] = True
    return _only(logits, kept[survivors])


def apply_min_p(logits: Floats, min_p: float) -> Floats:
    """Drop tokens less probable than min_p times the best one (Nguyen 2024).

    logits float32 (vocab,), 0 <= min_p <= 1; returns float32 (vocab,).
    """
    if min_p <= 0:
        return logits.copy()
    return np.where(_relative(logits) < math.log(min_p), DROPPED, logits)


def apply_typical_p(logits: Floats, mass: float) -> Floats:
    """Keep the tokens whose surprise is nearest the entropy, until they hold `mass` (Meister 2022).

    The token that crosses the mass stays, and so do ties with it. logits float32 (vocab,),
    0 < mass <= 1; returns float32 (vocab,).
    """
    if mass >= 1:
        return logits.copy()
    kept = _finite(logits)
    values = _relative(logits[kept])  # (kept,)
    weights = np.exp(values)
    total = float(weights.sum(dtype=np.float64))
    # Surprise minus entropy is the mean of `values` minus the value: the normaliser cancels out.
    mean = float(np.multiply(weights, values, dtype=np.float64).sum()) / total
    distance = np.abs(values - np.float32(mean))
    ordered = _nearest(distance, weights, mass * total)
    crossing = int(weights[ordered].cumsum(dtype=np.float64).searchsorted(mass * total))
    farthest = distance[ordered[min(crossing, ordered.size - 1)]]
    return _only(logits, kept[distance <= farthest])


def _nearest(distance: Floats, weights: Floats, needed: float) -> NDArray[np.intp]:
    """Indices by rising distance, at least as many as weigh `needed`: no more is sorted than that."""
    count = 256
    while count < distance.size:
        head = np.argpartition(distance, count)[:count]
        if weights[head].sum(dtype=np.float64) >= needed:
            return head[distance[head].argsort()]
        count *= 8
    return distance.argsort()


def _finite(logits: Floats) -> NDArray[np.intp]:
    """Indices of the tokens that are not dropped yet."""
    return np.flatnonzero(logits > DROPPED)


def _relative(logits: Floats) -> Floats:
    """Scores relative to the best one, which gets 0."""
    with np.errstate(over="ignore"):
        relative: Floats = logits - logits.max()
    return relative


def _only(logits: Floats, survivors: NDArray[np.intp]) -> Floats:
    """The scores of the survivors; everything else is dropped."""
    result = np.full_like(logits, DROPPED)
    result[survivors] = logits[survivors]
    return result
