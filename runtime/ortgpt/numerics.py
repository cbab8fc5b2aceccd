"""Small numeric kernels that several parts share."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ortgpt.interfaces import Floats


def log_normaliser(logits: Floats) -> float:
    """log(sum(exp(logits))) of one row (vocab,).

    Finite exactly when the row is usable: NaN, +inf and a row of -inf only all give a
    non-finite answer, so one reduction serves both the logprob and the health check.
    """
    peak = logits.max()
    if not np.isfinite(peak):
        return float(peak)
    weights = logits - peak
    np.exp(weights, out=weights)  # in place: this runs for every token of every row
    return float(peak) + math.log(float(weights.sum()))  # NumPy sums pairwise: float32 loses nothing here


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
