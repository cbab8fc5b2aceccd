"""Warpers: cut a distribution down to what may be drawn. At least one token always survives.

A filter takes a row of scores (n,), at least one of them finite, and says which stay, as rising indices, or
None for all. The row may be what earlier filters have left, so that no filter looks at a token twice.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ortgpt.interfaces import Floats
from ortgpt.logits.cumulative import find_crossing
from ortgpt.logits.survivors import Kept, among, find_survivors, relative_to_best, weigh
from ortgpt.numerics import DROPPED, bound_of_best

LARGEST = float(np.finfo(np.float32).max)
SMALLEST = float(np.finfo(np.float32).tiny)
SORTED = 1024  # fewer scores are sorted all at once
REACHES = (0.5, 1, 2, 3, 4, 6, 8, 12, 16)  # in nats from the entropy, tried one after the other
# Rounding may make scores equal that were so close before a division by a temperature up to the hottest.
CLOSE = 1e-6
CLOSEST = 1e-30
HOTTEST = 1e6


def apply_temperature(logits: Floats, temperature: float, out: Floats | None = None) -> Floats:
    """Divide the scores by the temperature, after moving the best to 0, which softmax ignores.

    So a tiny temperature can't overflow: it leaves the best alone. logits float32 (n,), temperature > 0;
    returns float32 (n,), in `out` if given, which may be the row itself.
    """
    with np.errstate(over="ignore"):
        relative: Floats = np.subtract(logits, logits.max(), out=out)
        if temperature < SMALLEST:
            relative[relative < 0] = DROPPED
        else:
            relative /= np.float32(min(temperature, LARGEST))
    return relative


def select_top_k(scores: Floats, k: int) -> Kept:
    """The k best; ties with the k-th stay; k = 0 or k >= n keeps all (Fan 2018)."""
    if not 0 < k < scores.size:
        return None
    bound = bound_of_best(scores, k)
    kept = np.flatnonzero(scores >= bound if bound > DROPPED else scores > DROPPED)
    if kept.size <= k:
        return kept
    values = scores[kept]  # few more than k
    stays: NDArray[np.intp] = kept[values >= np.partition(values, kept.size - k)[kept.size - k]]
    return stays


def top_k_floor(scores: Floats, k: int, temperature: float) -> float | None:
    """A score that all reach which top-k keeps once they are divided by the temperature, and few others.

    None where it has to be tried.
    """
    if not 0 < k < scores.size or temperature > HOTTEST:
        return None
    bound = float(bound_of_best(scores, k))
    if bound == -math.inf:
        return None
    return _below(bound, float(scores.max()) - bound)


def select_top_p(scores: Floats, p: float) -> Kept:
    """The smallest set of best tokens whose probabilities sum to p or more (Holtzman 2020).

    The token that crosses p stays; p = 0 keeps the best one. Of equal scores at the border those
    with lower indices stay. 0 <= p <= 1.
    """
    if p >= 1:
        return None
    earlier, values = find_survivors(scores)
    share = p
    if values.size >= SORTED:
        head, share = _head(weigh(values), p)
        earlier, values = head if earlier is None else earlier[head], values[head]
    best = np.sort(values)[::-1]  # (head,), best first
    count = find_crossing(weigh(best), share, "left") + 1
    stays = values >= best[count - 1]
    num_ties = int(np.count_nonzero(stays)) - count  # too many, all equal to the last of the best
    if num_ties:
        stays[np.flatnonzero(values == best[count - 1])[-num_ties:]] = False
    return among(earlier, stays)


def select_min_p(scores: Floats, min_p: float) -> Kept:
    """Tokens at least min_p times as probable as the best one (Nguyen 2024). 0 <= min_p <= 1."""
    if min_p <= 0:
        return None
    peak = scores.max()
    kept = np.flatnonzero(scores >= _below(float(peak) + math.log(min_p), -math.log(min_p)))
    with np.errstate(over="ignore"):
        stays: NDArray[np.intp] = kept[scores[kept] - peak >= math.log(min_p)]
    return stays


def min_p_floor(scores: Floats, min_p: float, temperature: float) -> float | None:
    """As top_k_floor, for min-p."""
    if min_p <= 0 or temperature > HOTTEST:
        return None
    distance = -math.log(min_p) * temperature
    return _below(float(scores.max()) - distance, distance)


def select_typical_p(scores: Floats, mass: float) -> Kept:
    """The tokens whose surprise is nearest the entropy, until they hold `mass` (Meister 2022).

    The token that crosses the mass stays, and so do ties with it. 0 < mass <= 1.
    """
    if mass >= 1:
        return None
    earlier, values = find_survivors(scores)
    relative = relative_to_best(values)
    weights = np.exp(relative)
    # Surprise minus entropy is the mean of `relative` minus `relative`: the normaliser cancels out.
    total = float(weights.sum(dtype=np.float64))
    mean = float((weights * relative.clip(min=-LARGEST)).sum(dtype=np.float64)) / total
    distance = np.abs(relative - np.float32(mean))
    nearest, share = _nearest(distance, weights, mass)
    farthest = distance[nearest[find_crossing(weights[nearest], share, "left")]]
    return among(earlier, distance <= farthest)


def select_top_n_sigma(scores: Floats, n: float) -> Kept:
    """The scores within n standard deviations of the best one (Tang 2024).

    The deviation is that of the tokens not dropped yet. A temperature does not change what stays. n >= 0.
    """
    earlier, values = find_survivors(scores)
    finite = values if earlier is not None else values[values > DROPPED]
    # In float64 the square of no float32 overflows.
    reach = min(n, LARGEST) * float(finite.std(dtype=np.float64))
    return among(earlier, values >= np.float64(values.max()) - reach)


def _below(score: float, distance: float) -> float:
    """Lower by what rounding can hide of the score's distance from the best one; in float32's range."""
    return max(-LARGEST, score - CLOSE * distance - CLOSEST)


def _head(weights: Floats, p: float) -> tuple[NDArray[np.intp], float]:
    """Indices of the best tokens, enough of them to hold p of the weight, and p as a share of theirs.

    All tokens below the lowest floor weigh less than 1 - p together; higher floors are tried first,
    because mostly a few tokens hold p.
    """
    total = float(weights.sum(dtype=np.float64))
    floor = (1 - p) * total / weights.size
    for factor in (256, 16, 1):
        head = np.flatnonzero(weights >= min(1.0, factor * floor))  # the best one weighs 1
        reached = float(weights[head].sum(dtype=np.float64))
        if reached >= p * total:
            return head, p * total / reached
    return np.arange(weights.size), p


def _nearest(distance: Floats, weights: Floats, mass: float) -> tuple[NDArray[np.intp], float]:
    """Indices by rising distance, enough of them to hold the mass, and it as a share of theirs."""
    total = float(weights.sum(dtype=np.float64))
    for reach in REACHES:
        head = np.flatnonzero(distance <= reach)
        reached = float(weights[head].sum(dtype=np.float64))
        if reached >= mass * total:
            return head[distance[head].argsort()], mass * total / reached
    return distance.argsort(), mass
