"""Which processors a row of logits goes through, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from ortgpt.errors import OptionError
from ortgpt.interfaces import Constraint, Floats, Ids, Processor
from ortgpt.logits import processors as rules
from ortgpt.logits import sampling_filters as filters
from ortgpt.logits.filter_chain import FilterChain
from ortgpt.logits.processors import Rule
from ortgpt.logits.rows import RowBuffer
from ortgpt.options import DRY_ALLOWED_LENGTH, DRY_BASE, Options
from ortgpt.strategies import XTC_THRESHOLD, Sampling

T = TypeVar("T")


@dataclass(frozen=True)
class Pipeline:
    """Processors applied one after the other; itself a processor. An empty one returns its input.

    It belongs to one sequence or search: the scores that it returns are valid until it is called again,
    because rules write into a row of its own, one over the other.
    """

    processors: tuple[Processor, ...] = ()
    _row: RowBuffer = field(default_factory=RowBuffer, init=False, repr=False, compare=False)

    def __call__(self, token_ids: Ids, logits: Floats, /) -> Floats:
        own = self._row.like(logits) if self.processors else logits
        for processor in self.processors:
            if isinstance(processor, Rule):
                logits = processor(token_ids, logits, own)
            else:
                logits = processor(token_ids, logits)
        return logits


def make_processors(
    options: Options,
    *,
    prompt_length: int,
    max_tokens: int,
    stop_token_ids: Sequence[int],
    bad_word_ids: Sequence[tuple[int, ...]],
    sequence_biases: Mapping[tuple[int, ...], float],
    breakers: Sequence[tuple[int, ...]],
    vocab_size: int,
    tokenizer_size: int,
    constraint: Constraint | None = None,
) -> Pipeline:
    """What the logits go through with every strategy, in this order; rules that are off are left out:

    1. padded vocabulary: ids that the tokenizer does not have are excluded
    2. sequence bias, after prompt and output
    3. logit bias
    4. repetition penalty, over prompt and output
    5. presence and frequency penalties, over the output
    6. DRY, over prompt and output
    7. no-repeat n-grams, over prompt and output
    8. bad words; a stop id alone is ignored as one, so that a text can still end
    9. exponential length decay, by the length of the output
    10. min new tokens: no stop id before
    11. forced first token and forced last token of the output
    12. suppressed tokens; at the beginning of the output too
    13. constraints: forbidden words, grammars, keywords
    14. the caller's processors
    15. a check that a token is left

    prompt_length    how many of the token ids are not output
    max_tokens       how long the output may get
    stop_token_ids   the ids that end this text
    bad_word_ids     Options.bad_words as ids
    sequence_biases  Options.sequence_bias with ids for texts
    breakers         Options.dry_sequence_breakers as ids
    constraint       Options.constraints, bound to this text

    Raises OptionError for a forced id that the tokenizer does not have. The pipeline raises
    ConstraintError when no token is left, and OptionError naming processors[i] when a processor of
    the caller returns something that is not a row of scores.
    """
    stops = tuple(stop_token_ids)
    words = tuple(word for word in bad_word_ids if not (len(word) == 1 and word[0] in stops))
    output = (options.presence_penalty, options.frequency_penalty)
    holds_back = options.min_new_tokens > 0 and bool(stops)
    steps: list[tuple[bool, Processor]] = [
        (tokenizer_size < vocab_size, rules.VocabularySize(tokenizer_size)),
        (bool(sequence_biases), rules.SequenceBias(sequence_biases)),
        (bool(options.logit_bias), _logit_bias(options.logit_bias)),
        (options.repetition_penalty != 1, rules.RepetitionPenalty(options.repetition_penalty)),
        (output != (0, 0), rules.PresenceFrequency(*output, prompt_length)),
        (options.dry_multiplier > 0, _dry(options, breakers)),
        (options.no_repeat_ngram_size > 0, rules.NoRepeatNgram(options.no_repeat_ngram_size)),
        (bool(words), rules.BadWords(words)),
        *_length_decay(options, stops, prompt_length),
        (holds_back, rules.MinNewTokens(options.min_new_tokens, stops, prompt_length)),
        *_forced(options, prompt_length, max_tokens, tokenizer_size),
        *_suppressed(options, prompt_length),
        *([(True, rules.Constrained(constraint, prompt_length))] if constraint else []),
        *((True, rules.Checked(call, f"processors[{i}]")) for i, call in enumerate(options.processors)),
    ]
    chosen = [processor for is_on, processor in steps if is_on]
    if chosen:  # raw logits alone are checked where they are made
        chosen.append(rules.TokenLeft(prompt_length))
    return Pipeline(tuple(chosen))


def make_warpers(strategy: Sampling, rng: np.random.Generator) -> FilterChain:
    """What a sampling strategy does to the scores, in this order or its own; what is off is left out:

    1. temperature, or dynamic temperature
    2. top-n-sigma
    3. top-k
    4. top-p
    5. min-p
    6. typical-p
    7. epsilon
    8. eta
    9. XTC, which draws from `rng`, the one that the sequence draws from

    Mirostat, which truncates by what it has drawn, is no part of it. A greedy strategy's chain is
    empty: the search takes the best token itself.
    """
    if strategy.is_greedy:
        return FilterChain()
    active = strategy.active_filters
    return FilterChain(tuple(_filter(strategy, name, rng) for name in strategy.order if name in active))


def _filter(strategy: Sampling, name: str, rng: np.random.Generator) -> filters.Filter | Rule:
    match name:
        case "temperature":
            return _temperature(strategy)
        case "top_n_sigma":
            return filters.TopNSigma(strategy.top_n_sigma)
        case "top_k":
            return filters.TopK(strategy.top_k or 0)
        case "top_p":
            return filters.TopP(strategy.top_p)
        case "min_p":
            return filters.MinP(strategy.min_p)
        case "typical_p":
            return filters.TypicalP(strategy.typical_p)
        case "epsilon_cutoff":
            return filters.Epsilon(strategy.epsilon_cutoff)
        case "eta_cutoff":
            return filters.Eta(strategy.eta_cutoff)
        case _:
            return filters.Xtc(strategy.xtc_probability, _given(strategy.xtc_threshold, XTC_THRESHOLD), rng)


def _temperature(strategy: Sampling) -> Rule:
    if not strategy.dynatemp_range:
        return filters.Temperature(strategy.temperature)
    exponent = _given(strategy.dynatemp_exponent, 1.0)
    return filters.DynamicTemperature(strategy.temperature, strategy.dynatemp_range, exponent)


def _logit_bias(biases: Mapping[int, float]) -> rules.LogitBias:
    ids = np.fromiter(biases.keys(), np.int64, len(biases))
    return rules.LogitBias(ids, np.fromiter(biases.values(), np.float64, len(biases)))


def _dry(options: Options, breakers: Sequence[tuple[int, ...]]) -> rules.Dry:
    by_first_id: dict[int, list[tuple[int, ...]]] = {}
    for first, *rest in breakers:
        by_first_id.setdefault(first, []).append(tuple(rest))
    return rules.Dry(
        options.dry_multiplier,
        _given(options.dry_base, DRY_BASE),
        _given(options.dry_allowed_length, DRY_ALLOWED_LENGTH),
        by_first_id,
    )


def _length_decay(
    options: Options, stop_token_ids: tuple[int, ...], prompt_length: int
) -> Iterator[tuple[bool, Processor]]:
    if options.exponential_decay_length_penalty is not None:
        start, factor = options.exponential_decay_length_penalty
        yield bool(stop_token_ids), rules.LengthDecay(start, factor, stop_token_ids, prompt_length)


def _forced(
    options: Options, prompt_length: int, max_tokens: int, tokenizer_size: int
) -> Iterator[tuple[bool, Processor]]:
    """The last token's rule comes last: a single token is both the first and the last."""
    first, last = options.forced_bos_token_id, options.forced_eos_token_id
    for name, token_id, place in (
        ("forced_bos_token_id", first, 0),
        ("forced_eos_token_id", last, max_tokens - 1),
    ):
        if token_id is not None:
            if token_id >= tokenizer_size:
                raise OptionError(name, f"is {token_id}, the tokenizer has {tokenizer_size} ids")
            yield True, rules.Forced(token_id, prompt_length + place)


def _suppressed(options: Options, prompt_length: int) -> Iterator[tuple[bool, Processor]]:
    yield bool(options.suppress_tokens), rules.Suppressed(tuple(options.suppress_tokens))
    begin = prompt_length if options.forced_bos_token_id is None else prompt_length + 1
    yield bool(options.begin_suppress_tokens), rules.Suppressed(tuple(options.begin_suppress_tokens), begin)


def _given(value: T | None, default: T) -> T:
    return default if value is None else value
