"""Processors: one frozen class per rule, holding its parameters; the kernels do the work.

These are the rules of every strategy; those of sampling alone are in `sampling_filters`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ortgpt.errors import ConstraintError, OptionError
from ortgpt.interfaces import Constraint, Floats, Ids, Processor
from ortgpt.logits import masks, penalties
from ortgpt.logits.dry import Breakers, apply_dry

Number = TypeVar("Number", np.float32, np.int64)


class Rule(ABC):
    """A processor of our own. Pure like every one, but it can be told where its result may go."""

    @abstractmethod
    def __call__(self, token_ids: Ids, logits: Floats, /, out: Floats | None = None) -> Floats:
        """out: where new scores are written, which may be `logits` itself; None: an array of their own."""


@dataclass(frozen=True)
class VocabularySize(Rule):
    """Ids from `size` on are never generated: the tokenizer has no text for them."""

    size: int

    def __call__(self, token_ids: Ids, logits: Floats, /, out: Floats | None = None) -> Floats:
        return masks.apply_vocabulary_size(logits, self.size, out)


@dataclass(frozen=True, eq=False)
class LogitBias(Rule):
    """Adds biases float64 (n,) to the scores of ids int64 (n,)."""

    ids: Ids
    biases: NDArray[np.float64]

    def __call__(self, token_ids: Ids, logits: Floats, /, out: Floats | None = None) -> Floats:
        return penalties.apply_logit_bias(logits, self.ids, self.biases, out)


@dataclass(frozen=True)
class SequenceBias(Rule):
    """Adds a bias to the last id of each sequence where the ids before it match."""

    biases: Mapping[tuple[int, ...], float]

    def __call__(self, token_ids: Ids, logits: Floats, /, out: Floats | None = None) -> Floats:
        return penalties.apply_sequence_bias(logits, token_ids, self.biases, out)


@dataclass(frozen=True)
class RepetitionPenalty(Rule):
    """Over prompt and output."""

    penalty: float

    def __call__(self, token_ids: Ids, logits: Floats, /, out: Floats | None = None) -> Floats:
        return penalties.apply_repetition_penalty(logits, token_ids, self.penalty, out)


@dataclass(frozen=True)
class PresenceFrequency(Rule):
    """Over the output only."""

    presence: float
    frequency: float
    prompt_length: int

    def __call__(self, token_ids: Ids, logits: Floats, /, out: Floats | None = None) -> Floats:
        generated_ids = token_ids[self.prompt_length :]
        return penalties.apply_presence_frequency(logits, generated_ids, self.presence, self.frequency, out)


@dataclass(frozen=True)
class Dry(Rule):
    """Over prompt and output."""

    multiplier: float
    base: float
    allowed_length: int
    breakers: Breakers

    def __call__(self, token_ids: Ids, logits: Floats, /, out: Floats | None = None) -> Floats:
        return apply_dry(
            logits,
            token_ids,
            multiplier=self.multiplier,
            base=self.base,
            allowed_length=self.allowed_length,
            breakers=self.breakers,
            out=out,
        )


@dataclass(frozen=True)
class NoRepeatNgram(Rule):
    """Over prompt and output."""

    n: int

    def __call__(self, token_ids: Ids, logits: Floats, /, out: Floats | None = None) -> Floats:
        return masks.apply_no_repeat_ngram(logits, token_ids, self.n, out)


@dataclass(frozen=True)
class BadWords(Rule):
    """The last id of each sequence is excluded where the ids before it match."""

    sequences: tuple[tuple[int, ...], ...]

    def __call__(self, token_ids: Ids, logits: Floats, /, out: Floats | None = None) -> Floats:
        return masks.apply_bad_words(logits, token_ids, self.sequences, out)


@dataclass(frozen=True)
class LengthDecay(Rule):
    """Stop ids get likelier with every generated token after `start`."""

    start: int
    factor: float
    stop_token_ids: tuple[int, ...]
    prompt_length: int

    def __call__(self, token_ids: Ids, logits: Floats, /, out: Floats | None = None) -> Floats:
        excess = len(token_ids) - self.prompt_length - self.start
        return penalties.apply_length_decay(logits, self.stop_token_ids, excess, self.factor, out)


@dataclass(frozen=True)
class MinNewTokens(Rule):
    """No stop id before `min_new_tokens` are generated."""

    min_new_tokens: int
    stop_token_ids: tuple[int, ...]
    prompt_length: int

    def __call__(self, token_ids: Ids, logits: Floats, /, out: Floats | None = None) -> Floats:
        num_generated = len(token_ids) - self.prompt_length
        return masks.apply_min_new_tokens(
            logits, num_generated, self.min_new_tokens, self.stop_token_ids, out
        )


@dataclass(frozen=True)
class Forced(Rule):
    """At this length, prompt included, only this id."""

    token_id: int
    length: int

    def __call__(self, token_ids: Ids, logits: Floats, /, out: Floats | None = None) -> Floats:
        return masks.apply_forced(logits, self.token_id, out) if len(token_ids) == self.length else logits


@dataclass(frozen=True)
class Suppressed(Rule):
    """These ids never; with a length only there, prompt included."""

    token_ids: tuple[int, ...]
    length: int | None = None

    def __call__(self, token_ids: Ids, logits: Floats, /, out: Floats | None = None) -> Floats:
        is_on = self.length is None or len(token_ids) == self.length
        return masks.apply_exclusion(logits, self.token_ids, out) if is_on else logits


@dataclass(frozen=True)
class Constrained:
    """What would break a constraint is excluded; it looks at the output only."""

    constraint: Constraint
    prompt_length: int

    def __call__(self, token_ids: Ids, logits: Floats, /) -> Floats:
        return self.constraint.apply(token_ids[self.prompt_length :], logits)


@dataclass(frozen=True)
class Checked:
    """A caller's processor: can't write into what it is given, and its result is checked."""

    processor: Processor
    name: str

    def __call__(self, token_ids: Ids, logits: Floats, /) -> Floats:
        scores = self.processor(_read_only(token_ids), _read_only(logits))
        if not isinstance(scores, np.ndarray) or scores.dtype != np.float32 or scores.shape != logits.shape:
            got = (
                f"{scores.dtype} {scores.shape}" if isinstance(scores, np.ndarray) else type(scores).__name__
            )
            raise OptionError(self.name, f"must return a float32 array {logits.shape}, got {got}")
        if not scores.max() < np.inf:  # NaN too
            raise OptionError(self.name, "returned scores that are NaN or +inf")
        return scores


@dataclass(frozen=True)
class TokenLeft:
    """Changes nothing; raises ConstraintError when every token is excluded."""

    prompt_length: int

    def __call__(self, token_ids: Ids, logits: Floats, /) -> Floats:
        if logits.max() == -np.inf:
            step = len(token_ids) - self.prompt_length
            raise ConstraintError(
                f"no token is left at step {step}: every one is excluded",
                hint="loosen what excludes tokens: logit_bias, sequence_bias, bad_words, suppress_tokens, "
                "no_repeat_ngram_size, min_new_tokens, constraints or processors",
            )
        return logits


def _read_only(array: NDArray[Number]) -> NDArray[Number]:
    view = array.view()
    view.flags.writeable = False
    return view
