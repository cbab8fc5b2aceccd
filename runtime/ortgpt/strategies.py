"""Decoding strategies: frozen, keyword-only, checked when they are made.

A strategy says how the next token is chosen. What holds for every strategy (length, stops,
penalties, seeds) is in `ortgpt.options`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ortgpt.checks import check_float, check_int, shown
from ortgpt.errors import OptionError

MAX_BEAMS = 64
MAX_CANDIDATES = 64


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


@dataclass(frozen=True, kw_only=True)
class BeamSearch:
    """Follows the num_beams most probable texts at once and returns the best that ended.

    num_beams             texts followed at once
    length_penalty        a text's score is its log-probability / length ** length_penalty
    early_stopping        True: done when num_beams texts have ended; False: when the best running
                          one can't beat the worst ended one at its present length; "never": when
                          it can't at any length
    num_return_sequences  choices to return, best first; at most num_beams
    sample                draw the continuations from their distribution instead of taking the best
    temperature, top_k, top_p    of those draws; only with sample

    Raises OptionError when a value is out of range.
    """

    num_beams: int = 5
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = True
    num_return_sequences: int = 1
    sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check_int("num_beams", self.num_beams, 1, MAX_BEAMS)
        check_float("length_penalty", self.length_penalty)
        if self.early_stopping not in (True, False, "never"):
            raise OptionError(
                "early_stopping", f'must be True, False or "never", got {shown(self.early_stopping)}'
            )
        check_int("num_return_sequences", self.num_return_sequences, 1, self.num_beams)
        if not isinstance(self.sample, bool):
            raise OptionError("sample", f"must be True or False, got {shown(self.sample)}")
        check_float("temperature", self.temperature, 0.0, above=True)
        self.warpers  # noqa: B018 (checks top_k and top_p)
        if not self.sample and self.warpers != Sampling():
            raise OptionError("temperature, top_k and top_p", "need sample=True")

    @property
    def warpers(self) -> Sampling:
        """The filters that the draws go through."""
        return Sampling(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)


@dataclass(frozen=True, kw_only=True)
class ContrastiveSearch:
    """Probable tokens whose hidden state is unlike all before it (Su 2022): fluent without loops.

    top_k          candidates per token
    penalty_alpha  weight of the unlikeness against the probability; 0 is greedy

    Raises OptionError when a value is out of range.
    """

    top_k: int = 4
    penalty_alpha: float = 0.6

    def __post_init__(self) -> None:
        check_int("top_k", self.top_k, 1, MAX_CANDIDATES)
        check_float("penalty_alpha", self.penalty_alpha, 0.0, 1.0)


Strategy = Greedy | Sampling | BeamSearch | ContrastiveSearch
