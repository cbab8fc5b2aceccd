"""The filters of sampling: one frozen class per rule, each a processor; the kernels do the work."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ortgpt.interfaces import Floats, Ids
from ortgpt.logits import entropy_filters, warpers
from ortgpt.logits.xtc import apply_xtc


@dataclass(frozen=True)
class Temperature:
    temperature: float

    def __call__(self, token_ids: Ids, logits: Floats, /) -> Floats:
        return warpers.apply_temperature(logits, self.temperature)


@dataclass(frozen=True)
class DynamicTemperature:
    temperature: float
    reach: float
    exponent: float

    def __call__(self, token_ids: Ids, logits: Floats, /) -> Floats:
        return entropy_filters.apply_dynamic_temperature(logits, self.temperature, self.reach, self.exponent)


@dataclass(frozen=True)
class TopNSigma:
    n: float

    def __call__(self, token_ids: Ids, logits: Floats, /) -> Floats:
        return warpers.apply_top_n_sigma(logits, self.n)


@dataclass(frozen=True)
class TopK:
    k: int

    def __call__(self, token_ids: Ids, logits: Floats, /) -> Floats:
        return warpers.apply_top_k(logits, self.k)


@dataclass(frozen=True)
class TopP:
    p: float

    def __call__(self, token_ids: Ids, logits: Floats, /) -> Floats:
        return warpers.apply_top_p(logits, self.p)


@dataclass(frozen=True)
class MinP:
    min_p: float

    def __call__(self, token_ids: Ids, logits: Floats, /) -> Floats:
        return warpers.apply_min_p(logits, self.min_p)


@dataclass(frozen=True)
class TypicalP:
    mass: float

    def __call__(self, token_ids: Ids, logits: Floats, /) -> Floats:
        return warpers.apply_typical_p(logits, self.mass)


@dataclass(frozen=True)
class Epsilon:
    epsilon: float

    def __call__(self, token_ids: Ids, logits: Floats, /) -> Floats:
        return entropy_filters.apply_epsilon(logits, self.epsilon)


@dataclass(frozen=True)
class Eta:
    epsilon: float

    def __call__(self, token_ids: Ids, logits: Floats, /) -> Floats:
        return entropy_filters.apply_eta(logits, self.epsilon)


@dataclass(frozen=True)
class Xtc:
    """Draws one number from `rng` per call, so it belongs to the sequence that draws from it."""

    probability: float
    threshold: float
    rng: np.random.Generator

    def __call__(self, token_ids: Ids, logits: Floats, /) -> Floats:
        return apply_xtc(logits, self.threshold) if self.rng.random() < self.probability else logits
