"""The filters of sampling: one frozen class per rule, each a processor; the kernels do the work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from ortgpt.interfaces import Floats, Ids
from ortgpt.logits import entropy_filters, warpers
from ortgpt.logits.processors import Rule
from ortgpt.logits.survivors import Kept, keep_only
from ortgpt.logits.xtc import select_xtc


class Filter(ABC):
    """A processor that changes no score: it says which tokens stay, and the others are excluded."""

    @abstractmethod
    def select(self, scores: Floats) -> Kept:
        """Which of the scores (n,) stay, at least one of them finite; all of them are its row's survivors."""

    def floor(self, scores: Floats, temperature: float) -> float | None:
        """A score that all reach which stay once they are divided by the temperature.

        None where that can't be told without dividing.
        """
        return None

    def __call__(self, token_ids: Ids, logits: Floats, /) -> Floats:
        return keep_only(logits, self.select(logits))


@dataclass(frozen=True)
class Temperature(Rule):
    temperature: float

    def __call__(self, token_ids: Ids, logits: Floats, /, out: Floats | None = None) -> Floats:
        return warpers.apply_temperature(logits, self.temperature, out)


@dataclass(frozen=True)
class DynamicTemperature(Rule):
    temperature: float
    reach: float
    exponent: float

    def __call__(self, token_ids: Ids, logits: Floats, /, out: Floats | None = None) -> Floats:
        return entropy_filters.apply_dynamic_temperature(
            logits, self.temperature, self.reach, self.exponent, out
        )


@dataclass(frozen=True)
class TopNSigma(Filter):
    n: float

    def select(self, scores: Floats) -> Kept:
        return warpers.select_top_n_sigma(scores, self.n)


@dataclass(frozen=True)
class TopK(Filter):
    k: int

    def select(self, scores: Floats) -> Kept:
        return warpers.select_top_k(scores, self.k)

    def floor(self, scores: Floats, temperature: float) -> float | None:
        return warpers.top_k_floor(scores, self.k, temperature)


@dataclass(frozen=True)
class TopP(Filter):
    p: float

    def select(self, scores: Floats) -> Kept:
        return warpers.select_top_p(scores, self.p)


@dataclass(frozen=True)
class MinP(Filter):
    min_p: float

    def select(self, scores: Floats) -> Kept:
        return warpers.select_min_p(scores, self.min_p)

    def floor(self, scores: Floats, temperature: float) -> float | None:
        return warpers.min_p_floor(scores, self.min_p, temperature)


@dataclass(frozen=True)
class TypicalP(Filter):
    mass: float

    def select(self, scores: Floats) -> Kept:
        return warpers.select_typical_p(scores, self.mass)


@dataclass(frozen=True)
class Epsilon(Filter):
    epsilon: float

    def select(self, scores: Floats) -> Kept:
        return entropy_filters.select_epsilon(scores, self.epsilon)


@dataclass(frozen=True)
class Eta(Filter):
    epsilon: float

    def select(self, scores: Floats) -> Kept:
        return entropy_filters.select_eta(scores, self.epsilon)


@dataclass(frozen=True)
class Xtc(Filter):
    """Draws one number from `rng` per call, so it belongs to the sequence that draws from it."""

    probability: float
    threshold: float
    rng: np.random.Generator

    def select(self, scores: Floats) -> Kept:
        return select_xtc(scores, self.threshold) if self.rng.random() < self.probability else None
