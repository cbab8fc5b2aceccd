"""Decoding strategies: frozen, keyword-only, checked when they are made.

A strategy says how the next token is chosen. What holds for every strategy (length, stops,
penalties, seeds) is in `ortgpt.options`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ortgpt.checks import check_float, check_int


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """Always the most probable token; of equal ones the lowest id."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Draws from the model's distribution, cut down by the filters that are set.

    Plain `Sampling()` truncates nothing. Filters apply in the order of the fields.

    temperature  divides the scores; 0 means greedy
    top_k        keep the k best (ties with the k-th survive); None or 0: off
    top_p        keep the smallest set with at least this probability mass (Holtzman 2020)
    min_p        drop tokens below min_p times the best probability (Nguyen 2024)
    typical_p    keep the tokens whose surprise is nearest the entropy, up to this mass (Meister 2022)

    Raises OptionError when a value is out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0

    def __post_init__(self) -> None:
        check_float("temperature", self.temperature, 0.0)
        if self.top_k is not None:
            check_int("top_k", self.top_k, 0)
        check_float("top_p", self.top_p, 0.0, 1.0)
        check_float("min_p", self.min_p, 0.0, 1.0)
        check_float("typical_p", self.typical_p, 0.0, 1.0, above=True)


Strategy = Greedy | Sampling
