"""Mirostat 2.0: sampling that steers the surprise of its tokens towards a target (Basu 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ortgpt.interfaces import Floats
from ortgpt.logits.survivors import find_survivors, keep_only, relative_to_best

LOG_2 = math.log(2)


def apply_mirostat(logits: Floats, limit: float) -> Floats:
    """Drop tokens whose surprise is above the limit, in bits; the best one stays.

    logits float32 (vocab,), limit any number; returns float32 (vocab,).
    """
    kept, values = find_survivors(logits)
    relative = relative_to_best(values)
    normaliser = math.log(float(np.exp(relative).sum(dtype=np.float64)))
    return keep_only(logits, relative >= min(0.0, normaliser - limit * LOG_2), kept)


def surprise(scores: Floats, token_id: int) -> float:
    """-log2 of the token's probability in softmax(scores). scores float32 (vocab,)."""
    values = find_survivors(scores)[1]
    normaliser = math.log(float(np.exp(relative_to_best(values)).sum(dtype=np.float64)))
    return (normaliser - (float(scores[token_id]) - float(values.max()))) / LOG_2


@dataclass
class Mirostat:
    """A row's feedback loop, as in llama.cpp: it belongs to one sequence and is told every token.

    tau    surprise to steer towards, in bits
    eta    how fast: the share of each error that the limit is corrected by
    limit  surprise that a token may have now; starts at 2 * tau
    """

    tau: float
    eta: float
    limit: float = math.nan

    def __post_init__(self) -> None:
        if math.isnan(self.limit):
            self.limit = 2 * self.tau

    def truncate(self, scores: Floats) -> Floats:
        """The scores that may be drawn from now."""
        return apply_mirostat(scores, self.limit)

    def learn(self, truncated: Floats, token_id: int) -> None:
        """Correct the limit by what was drawn from the truncated scores."""
        self.limit -= self.eta * (surprise(truncated, token_id) - self.tau)
