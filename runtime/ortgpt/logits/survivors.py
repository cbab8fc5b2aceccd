"""The tokens of a row that are still in: finding them, weighing them, putting them back into a row.

A row is float32 (n,), at least one score finite: the whole vocabulary, where dropped tokens have -inf, or
only what earlier filters have left of it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ortgpt.interfaces import Floats
from ortgpt.numerics import DROPPED, WORKSPACE

LARGEST = float(np.finfo(np.float32).max)
SPARSE = 8  # fewer survivors than one in so many are gathered, more are worked on in place
SHORT = 1024  # scores that are not worth a look at which are dropped

Kept = NDArray[np.intp] | None
"""Which scores of a row stay, as rising indices; None: all."""


class Survivors(NamedTuple):
    """What filters leave of a row.

    ids     rising (kept,), None: the whole row
    scores  (kept,)
    """

    ids: Kept
    scores: Floats

    def only(self, kept: Kept) -> Survivors:
        """Those of them that stay."""
        if kept is None:
            return self
        return Survivors(kept if self.ids is None else self.ids[kept], self.scores[kept])

    def token_id(self, index: int) -> int:
        """The id of one of the scores."""
        return index if self.ids is None else int(self.ids[index])


class Spread(NamedTuple):
    """A row's distribution in two numbers, in nats.

    normaliser  log of the sum of exp(score - best score)
    entropy     of the distribution
    """

    normaliser: float
    entropy: float


def find_survivors(scores: Floats) -> Survivors:
    """The tokens not dropped yet.

    A row that is mostly kept is passed on whole: gathering would cost more than it saves.
    """
    if scores.size < SHORT:
        return Survivors(None, scores)
    is_kept = scores > DROPPED
    if np.count_nonzero(is_kept) * SPARSE > scores.size:
        return Survivors(None, scores)
    kept = np.flatnonzero(is_kept)
    return Survivors(kept, scores[kept])


def relative_to_best(scores: Floats) -> Floats:
    """Scores relative to the best one, which gets 0."""
    with np.errstate(over="ignore"):
        relative: Floats = scores - scores.max()
    return relative


def weigh(scores: Floats) -> Floats:
    """exp(score - best score), in this thread's workspace: only the kernel that asks may use it."""
    weights = WORKSPACE.floats(scores.size)
    with np.errstate(over="ignore"):
        np.subtract(scores, scores.max(), out=weights)
    return np.exp(weights, out=weights)


def log_sum(relative: Floats) -> float:
    """The normaliser, from scores relative to the best one."""
    weights = np.exp(relative, out=WORKSPACE.floats(relative.size))
    return math.log(float(weights.sum(dtype=np.float64)))


def measure(relative: Floats) -> Spread:
    """Normaliser and entropy, from scores relative to the best one."""
    weights = np.exp(relative, out=WORKSPACE.floats(relative.size))
    total = float(weights.sum(dtype=np.float64))
    # A weight of 0 makes its product 0 too, if the score is a number.
    mean = float((weights * relative.clip(min=-LARGEST)).sum(dtype=np.float64)) / total
    normaliser = math.log(total)
    return Spread(normaliser, max(0.0, normaliser - mean))


def among(earlier: Kept, stays: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Indices of what stays, given for each of those that were left before."""
    return np.flatnonzero(stays) if earlier is None else earlier[stays]


def keep_only(scores: Floats, kept: Kept) -> Floats:
    """The row (n,) with -inf for all that does not stay."""
    if kept is None:
        return scores.copy()
    result = np.full_like(scores, DROPPED)
    result[kept] = scores[kept]
    return result
