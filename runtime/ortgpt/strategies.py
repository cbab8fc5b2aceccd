"""Decoding strategies: frozen, keyword-only, checked when they are made.

A strategy says how the next token is chosen. What holds for every strategy (length, stops,
penalties, seeds) is in `ortgpt.options`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ortgpt.checks import check_bool, check_float, check_int, check_needed, check_sequence, shown
from ortgpt.errors import OptionError

MAX_BEAMS = 64
MAX_CANDIDATES = 64
XTC_THRESHOLD = 0.1
MIROSTAT_ETA = 0.1
MAX_SURPRISE = 100.0  # bits; no vocabulary has a token that surprises more in the mean
FILTER_ORDER = (
    "temperature",
    "top_n_sigma",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "xtc",
)


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """Always the most probable token; of equal ones the lowest id."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Draws from the model's distribution, cut down by the filters that are set.

    Plain `Sampling()` truncates nothing. Filters apply in the order of the fields, or in `order`.

    temperature        divides the scores; 0 means greedy
    dynatemp_range     the temperature moves this far down (where the model is sure) or up (where it
                       is not), by the entropy; 0 is off (as in llama.cpp)
    dynatemp_exponent  of the entropy's share of the highest possible; None: 1
    top_n_sigma        keep scores within n standard deviations of the best; 0 is off (Tang 2024)
    top_k              keep the k best (ties with the k-th survive); None or 0: off
    top_p              keep the smallest set with at least this probability mass (Holtzman 2020)
    min_p              drop tokens below min_p times the best probability (Nguyen 2024)
    typical_p          keep the tokens whose surprise is nearest the entropy, up to this mass (Meister 2022)
    epsilon_cutoff     drop tokens below this probability; 0 is off (Hewitt 2022)
    eta_cutoff         the same, with a bound that falls with the entropy; 0 is off (Hewitt 2022)
    xtc_probability    how often the obvious tokens are taken away: of those above xtc_threshold all
                       but the least probable; 0 is off (Weidmann 2024)
    xtc_threshold      at most 0.5, as no two tokens are above that; None: 0.1
    mirostat_tau       in place of all truncation, steer the surprise of the tokens towards so many
                       bits; 0 is off (Basu 2021, version 2)
    mirostat_eta       how fast it steers; None: 0.1
    order              the filters' names in the order they apply: "temperature", "top_n_sigma", "top_k",
                       "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "xtc"; those that
                       are off may be left out

    Raises OptionError when a value is out of range, needs another, or would have no effect.
    """

    temperature: float = 1.0
    dynatemp_range: float = 0.0
    dynatemp_exponent: float | None = None
    top_n_sigma: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float | None = None
    mirostat_tau: float = 0.0
    mirostat_eta: float | None = None
    order: Sequence[str] = FILTER_ORDER

    def __post_init__(self) -> None:
        self._check_ranges()
        check_needed(self, "dynatemp_exponent", "dynatemp_range")
        check_needed(self, "xtc_threshold", "xtc_probability")
        check_needed(self, "mirostat_eta", "mirostat_tau")
        object.__setattr__(self, "order", _checked_order(self.order))  # frozen: only here
        if self.mirostat_tau > 0:
            self._check_alone()
        for name in self.active_filters:
            if name not in self.order:
                raise OptionError("order", f"leaves out {name}, which is set")
        if self.is_greedy:
            for name in ("xtc_probability", "mirostat_tau"):
                if getattr(self, name) > 0:
                    raise OptionError(name, "has no effect at temperature 0, which is greedy")

    @property
    def is_greedy(self) -> bool:
        """Whether nothing is drawn: the best token is taken."""
        return self.temperature == 0 and self.dynatemp_range == 0

    @property
    def active_filters(self) -> tuple[str, ...]:
        """The filters that are set, in the order of the fields."""
        is_on = {
            "temperature": self.temperature != 1 or self.dynatemp_range > 0,
            "top_n_sigma": self.top_n_sigma > 0,
            "top_k": bool(self.top_k),
            "top_p": self.top_p < 1,
            "min_p": self.min_p > 0,
            "typical_p": self.typical_p < 1,
            "epsilon_cutoff": self.epsilon_cutoff > 0,
            "eta_cutoff": self.eta_cutoff > 0,
            "xtc": self.xtc_probability > 0,
        }
        return tuple(name for name in FILTER_ORDER if is_on[name])

    def _check_ranges(self) -> None:
        check_float("temperature", self.temperature, 0.0)
        check_float("dynatemp_range", self.dynatemp_range, 0.0)
        if self.dynatemp_exponent is not None:
            check_float("dynatemp_exponent", self.dynatemp_exponent, 0.0)
        check_float("top_n_sigma", self.top_n_sigma, 0.0)
        if self.top_k is not None:
            check_int("top_k", self.top_k, 0)
        check_float("top_p", self.top_p, 0.0, 1.0)
        check_float("min_p", self.min_p, 0.0, 1.0)
        check_float("typical_p", self.typical_p, 0.0, 1.0, above=True)
        check_float("epsilon_cutoff", self.epsilon_cutoff, 0.0, 1.0)
        check_float("eta_cutoff", self.eta_cutoff, 0.0, 1.0)
        check_float("xtc_probability", self.xtc_probability, 0.0, 1.0)
        if self.xtc_threshold is not None:
            check_float("xtc_threshold", self.xtc_threshold, 0.0, 0.5, above=True)
        check_float("mirostat_tau", self.mirostat_tau, 0.0, MAX_SURPRISE)
        if self.mirostat_eta is not None:
            check_float("mirostat_eta", self.mirostat_eta, 0.0, 1.0)

    def _check_alone(self) -> None:
        """Mirostat truncates by itself."""
        for name in self.active_filters:
            if name != "temperature":
                raise OptionError("mirostat_tau", f"takes the place of all truncation: it excludes {name}")
        if self.order != FILTER_ORDER:
            raise OptionError("order", "has no effect with mirostat_tau, which takes the filters' place")


@dataclass(frozen=True, kw_only=True)
class BeamSearch:
    """Follows the num_beams most probable texts at once and returns the best that ended.

    num_beams             texts followed at once
    length_penalty        a text's score is its log-probability / length ** length_penalty
    early_stopping        True: done when num_beams texts have ended; False: when the best running
                          one can't beat the worst ended one at its present length; "never": when
                          it can't at any length
    num_return_sequences  choices to return, best first; at most num_beams
    num_beam_groups       groups that the beams are divided into (Vijayakumar 2016); 1: none
    diversity_penalty     subtracted from a token's score for every beam of an earlier group that has
                          just chosen it; only with several groups
    sample                draw the continuations from their distribution instead of taking the best
    temperature, top_k, top_p    of those draws; only with sample

    Raises OptionError when a value is out of range.
    """

    num_beams: int = 5
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = True
    num_return_sequences: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
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
        self._check_groups()
        check_bool("sample", self.sample)
        check_float("temperature", self.temperature, 0.0, above=True)
        self.warpers  # noqa: B018 (checks top_k and top_p)
        if not self.sample and self.warpers != Sampling():
            raise OptionError("temperature, top_k and top_p", "need sample=True")

    def _check_groups(self) -> None:
        check_int("num_beam_groups", self.num_beam_groups, 1, self.num_beams)
        if self.num_beams % self.num_beam_groups:
            raise OptionError("num_beam_groups", f"must divide num_beams, {self.num_beams}")
        check_float("diversity_penalty", self.diversity_penalty, 0.0)
        if (self.num_beam_groups > 1) != (self.diversity_penalty > 0):
            raise OptionError("diversity_penalty", "and num_beam_groups belong together: set both or none")
        if self.num_beam_groups > 1 and self.sample:
            raise OptionError("sample", "does not go with num_beam_groups")

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


def _checked_order(value: object) -> tuple[str, ...]:
    order = check_sequence("order", value)
    for index, name in enumerate(order):
        if name not in FILTER_ORDER:
            known = ", ".join(FILTER_ORDER)
            raise OptionError(f"order[{index}]", f"is not a filter: {shown(name)}; the filters are {known}")
        if name in order[:index]:
            raise OptionError(f"order[{index}]", f"comes twice: {shown(name)}")
    return order
