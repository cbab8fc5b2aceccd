"""Mirostat 2.0: sampling that steers the surprise of its tokens towards a target (Basu 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ortgpt.interfaces import Floats
from ortgpt.logits.survivors import Kept, among, find_survivors, log_sum, relative_to_best

LOG_2 = math.log(2)


def select_mirostat(scores: Floats, limit: float) -> Kept:
    """Tokens whose surprise is not above the limit, in bits; the best one stays.

    scores float32 (n,), limit any number.
    """
    earlier, values = find_survivors(scores)
    relative = relative_to_best(values)
    return among(earlier, relative >= min(0.0, log_sum(relative) - limit * LOG_2))


def surprise(scores: Floats, index: int) -> float:
    """-log2 of a token's probability in softmax(scores). scores float32 (n,)."""
    values = find_survivors(scores).scores
    return (log_sum(relative_to_best(values)) - (float(scores[index]) - float(values.max()))) / LOG_2


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

    def select(self, scores: Floats) -> Kept:
        """Which scores may be drawn from now."""
        return select_mirostat(scores, self.limit)

    def learn(self, scores: Floats, index: int) -> None:
        """Correct the limit by which of the selected scores was drawn."""
        self.limit -= self.eta * (surprise(scores, index) - self.tau)
