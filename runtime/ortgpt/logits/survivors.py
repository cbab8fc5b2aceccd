"""The tokens of a row that are still in: finding them, measuring them, dropping more of them.

A row is float32 (vocab,), at least one score finite; dropped tokens have -inf.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ortgpt.interfaces import Floats

DROPPED = np.float32(-np.inf)
LARGEST = float(np.finfo(np.float32).max)
SPARSE = 8  # fewer survivors than one in so many are gathered, more are worked on in place


class Spread(NamedTuple):
    """A row's distribution in two numbers, in nats.

    normaliser  log of the sum of exp(score - best score)
    entropy     of the distribution
    """

    normaliser: float
    entropy: float


def find_survivors(logits: Floats) -> tuple[NDArray[np.intp] | None, Floats]:
    """Ids (kept,) and scores (kept,) of the tokens not dropped yet; ids None for the whole row.

    A row that is mostly kept is passed on whole: gathering would cost more than it saves.
    """
    is_kept = logits > DROPPED
    if np.count_nonzero(is_kept) * SPARSE > logits.size:
        return None, logits
    kept = np.flatnonzero(is_kept)
    return kept, logits[kept]


def relative_to_best(logits: Floats) -> Floats:
    """Scores relative to the best one, which gets 0."""
    with np.errstate(over="ignore"):
        relative: Floats = logits - logits.max()
    return relative


def measure(relative: Floats) -> Spread:
    """Normaliser and entropy from scores relative to the best one."""
    weights = np.exp(relative)
    total = float(weights.sum(dtype=np.float64))
    # A weight of 0 makes its product 0 too, if the score is a number.
    mean = float((weights * relative.clip(min=-LARGEST)).sum(dtype=np.float64)) / total
    normaliser = math.log(total)
    return Spread(normaliser, max(0.0, normaliser - mean))


def keep_only(logits: Floats, stays: NDArray[np.bool_], kept: NDArray[np.intp] | None) -> Floats:
    """The scores of the tokens that stay, -inf for the rest. stays: for each of `kept`, None for all."""
    if kept is None and np.count_nonzero(stays) * SPARSE > logits.size:
        return np.where(stays, logits, DROPPED)
    survivors = np.flatnonzero(stays) if kept is None else kept[stays]
    result = np.full_like(logits, DROPPED)
    result[survivors] = logits[survivors]
    return result
