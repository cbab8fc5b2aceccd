"""Warpers: cut a distribution down to what may be drawn. At least one token always survives.

They take one row of scores (vocab,), at least one of them finite; dropped tokens get -inf. Where a
filter needs to sort or sum, it does so among the tokens that earlier ones left.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ortgpt.interfaces import Floats
from ortgpt.logits.cumulative import find_crossing
from ortgpt.logits.survivors import DROPPED, LARGEST, find_survivors, keep_only, relative_to_best

SMALLEST = float(np.finfo(np.float32).tiny)
COLUMN = 64  # scores that share a maximum in the search for the k best


def apply_temperature(logits: Floats, temperature: float) -> Floats:
    """Divide the scores by the temperature, after moving the best to 0, which softmax ignores.

    So a tiny temperature can't overflow: it leaves the best alone. logits float32 (vocab,),
    temperature > 0; returns float32 (vocab,).
    """
    relative = relative_to_best(logits)
    if temperature < SMALLEST:
        return np.where(relative < 0, DROPPED, relative)
    with np.errstate(over="ignore"):
        relative /= np.float32(min(temperature, LARGEST))
    return relative


def apply_top_k(logits: Floats, k: int) -> Floats:
    """Keep the k best; ties with the k-th survive; k = 0 or k >= vocab keeps all (Fan 2018).

    logits float32 (vocab,); returns float32 (vocab,).
    """
    if not 0 < k < logits.size:
        return logits.copy()
    candidates = np.flatnonzero(logits >= _bound_of_best(logits, k))
    values = logits[candidates]  # (candidates,), k or more
    smallest = np.partition(values, values.size - k)[values.size - k]
    return keep_only(logits, values >= smallest, candidates)


def apply_top_p(logits: Floats, p: float) -> Floats:
    """Keep the smallest set of best tokens whose probabilities sum to p or more (Holtzman 2020).

    The token that crosses p stays; p = 0 keeps the best one. Of equal scores at the border those
    with lower ids stay. logits float32 (vocab,), 0 <= p <= 1; returns float32 (vocab,).
    """
    if p >= 1:
        return logits.copy()
    kept, values = find_survivors(logits)
    head, share = _head(values, np.exp(relative_to_best(values)), p)
    best = np.sort(head)[::-1]  # (head,), best first
    count = find_crossing(np.exp(relative_to_best(best)), share, "left") + 1
    stays = values >= best[count - 1]
    num_ties = int(np.count_nonzero(stays)) - count  # too many, all equal to the last of the best
    if num_ties:
        stays[np.flatnonzero(values == best[count - 1])[-num_ties:]] = False
    return keep_only(logits, stays, kept)


def apply_min_p(logits: Floats, min_p: float) -> Floats:
    """Drop tokens less probable than min_p times the best one (Nguyen 2024).

    logits float32 (vocab,), 0 <= min_p <= 1; returns float32 (vocab,).
    """
    if min_p <= 0:
        return logits.copy()
    kept, values = find_survivors(logits)
    return keep_only(logits, relative_to_best(values) >= math.log(min_p), kept)


def apply_typical_p(logits: Floats, mass: float) -> Floats:
    """Keep the tokens whose surprise is nearest the entropy, until they hold `mass` (Meister 2022).

    The token that crosses the mass stays, and so do ties with it. logits float32 (vocab,),
    0 < mass <= 1; returns float32 (vocab,).
    """
    if mass >= 1:
        return logits.copy()
    kept, values = find_survivors(logits)
    relative = relative_to_best(values)
    weights = np.exp(relative)
    # Surprise minus entropy is the mean of `relative` minus `relative`: the normaliser cancels out.
    total = float(weights.sum(dtype=np.float64))
    mean = float((weights * relative.clip(min=-LARGEST)).sum(dtype=np.float64)) / total
    distance = np.abs(relative - np.float32(mean))
    nearest, share = _nearest(distance, weights, mass)
    farthest = distance[nearest[find_crossing(weights[nearest], share, "left")]]
    return keep_only(logits, distance <= farthest, kept)


def apply_top_n_sigma(logits: Floats, n: float) -> Floats:
    """Keep the scores within n standard deviations of the best one (Tang 2024).

    The deviation is that of the tokens not dropped yet. A temperature does not change what stays.
    logits float32 (vocab,), n >= 0; returns float32 (vocab,).
    """
    kept, values = find_survivors(logits)
    finite = values if kept is not None else values[values > DROPPED]
    # In float64 the square of no float32 overflows.
    reach = min(n, LARGEST) * float(finite.std(dtype=np.float64))
    return keep_only(logits, values >= np.float64(values.max()) - reach, kept)


def _bound_of_best(logits: Floats, k: int) -> np.float32:
    """A score that the k best tokens reach, and few others."""
    rows = logits.size // COLUMN
    if k > rows // 2:
        return DROPPED
    # The k best columns hold k tokens that reach the least of their maxima.
    maxima = logits[: rows * COLUMN].reshape(COLUMN, rows).max(axis=0)  # (rows,)
    bound: np.float32 = np.partition(maxima, rows - k)[rows - k]
    return bound


def _head(values: Floats, weights: Floats, p: float) -> tuple[Floats, float]:
    """The best tokens, enough of them to hold p of the weight, and p as a share of theirs.

    All tokens below the lowest floor weigh less than 1 - p together; higher floors are tried first,
    because mostly a few tokens hold p.
    """
    if values.size < 1024:
        return values, p
    total = float(weights.sum(dtype=np.float64))
    floor = (1 - p) * total / values.size
    for factor in (256, 16, 1):
        candidates = np.flatnonzero(weights >= min(1.0, factor * floor))  # the best one weighs 1
        reached = float(weights[candidates].sum(dtype=np.float64))
        if reached >= p * total:
            return values[candidates], p * total / reached
    return values, p


def _nearest(distance: Floats, weights: Floats, mass: float) -> tuple[NDArray[np.intp], float]:
    """Indices by rising distance, enough of them to hold the mass, and it as a share of theirs."""
    total = float(weights.sum(dtype=np.float64))
    count = 256
    while count < distance.size:
        head = np.argpartition(distance, count)[:count]
        reached = float(weights[head].sum(dtype=np.float64))
        if reached >= mass * total:
            return head[distance[head].argsort()], mass * total / reached
        count *= 8
    return distance.argsort(), mass
