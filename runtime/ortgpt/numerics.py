"""Small numeric kernels that several parts share."""

from __future__ import annotations

import math
import threading

import numpy as np
from numpy.typing import NDArray

from ortgpt.interfaces import Floats

DROPPED = np.float32(-np.inf)
COLUMN = 64  # scores that share a maximum in the search for the best
# Between these a row's best score leaves its exponentials in float32's range: their sum does not overflow,
# and those that underflow do not count.
LOWEST, HIGHEST = -60.0, 70.0


class Workspace(threading.local):
    """One array per thread for intermediate results of a kernel, which must not outlive its call.

    A new array of a vocabulary's size costs as much as the work on it: its pages come one by one.
    """

    def __init__(self) -> None:
        self._floats: Floats = np.empty(0, np.float32)

    def floats(self, size: int) -> Floats:
        """(size,), holding anything; the same memory at every call."""
        if self._floats.size < size:
            self._floats = np.empty(size, np.float32)
        return self._floats[:size]


WORKSPACE = Workspace()


def log_normaliser(logits: Floats, dtype: type[np.floating] = np.float32) -> float:
    """log(sum(exp(logits))) of one row (vocab,).

    Finite exactly when the row is usable: NaN, +inf and a row of -inf only all give a
    non-finite answer, so one pass serves both the logprob and the health check.

    dtype: of the sum. float32 is exact to 2e-7; float64 to 4e-8, for twice the time of the sum.
    """
    peak = float(logits[logits.argmax()])  # the first NaN, if there is one
    if not math.isfinite(peak):
        return peak
    # Mostly float32 has room for the exponentials as they are, which saves a pass over the row.
    shift = 0.0 if LOWEST < peak < HIGHEST else peak
    return shift + math.log(_sum_of_exponentials(logits, shift, dtype))


def _sum_of_exponentials(logits: Floats, shift: float, dtype: type[np.floating]) -> float:
    """sum(exp(logits - shift)). NumPy sums pairwise, so float32 loses little."""
    weights = WORKSPACE.floats(logits.size)
    if shift:
        with np.errstate(over="ignore"):
            np.subtract(logits, np.float32(shift), out=weights)
        np.exp(weights, out=weights)
    else:
        np.exp(logits, out=weights)
    return float(np.add.reduce(weights, dtype=dtype))


def log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Log-probabilities over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probabilities over the last axis, in float64; -inf gives exactly 0."""
    weights = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    result: NDArray[np.float64] = weights / weights.sum(axis=-1, keepdims=True)
    return result


def bound_of_best(scores: Floats, count: int) -> np.float32:
    """A score that the `count` best of a row (n,) reach, and few others. 1 <= count <= n."""
    columns = scores.size // COLUMN
    if count > columns // 2:
        return np.float32(np.partition(scores, scores.size - count)[scores.size - count])
    # The best columns hold `count` scores that reach the least of their maxima.
    maxima = scores[: columns * COLUMN].reshape(COLUMN, columns).max(axis=0)  # (columns,)
    maxima.partition(columns - count)
    return np.float32(maxima[columns - count])


def best_ids(scores: Floats, count: int) -> NDArray[np.intp]:
    """Ids (count,) of the best of a row (n,), best first, of equal ones the lower first. 1 <= count <= n.

    Where fewer than `count` are above -inf, others fill up.
    """
    bound = bound_of_best(scores, count)
    found = np.flatnonzero(scores >= bound if bound > DROPPED else scores > DROPPED)
    if found.size < count:
        found = np.concatenate([found, np.flatnonzero(scores == DROPPED)[: count - found.size]])
    return found[np.argsort(-scores[found], kind="stable")[:count]]
