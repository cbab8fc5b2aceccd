"""Which processors a row of logits goes through, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ortgpt.interfaces import Floats, Ids, Processor
from ortgpt.logits import processors as rules
from ortgpt.options import Options
from ortgpt.strategies import Sampling


@dataclass(frozen=True)
class Pipeline:
    """Processors applied one after the other; itself a processor. An empty one returns its input."""

    processors: tuple[Processor, ...] = ()

    def __call__(self, token_ids: Ids, logits: Floats, /) -> Floats:
        for processor in self.processors:
            logits = processor(token_ids, logits)
        return logits


def make_processors(
    options: Options,
    *,
    prompt_length: int,
    stop_token_ids: Sequence[int],
    bad_word_ids: Sequence[tuple[int, ...]],
    vocab_size: int,
    tokenizer_size: int,
) -> Pipeline:
    """What the logits go through with every strategy, in this order; rules that are off are left out:

    1. padded vocabulary: ids that the tokenizer does not have are excluded
    2. logit bias
    3. repetition penalty, over prompt and output
    4. presence and frequency penalties, over the output
    5. no-repeat n-grams, over prompt and output
    6. bad words; a stop id alone is ignored as one, so that a text can still end
    7. min new tokens: no stop id before
    8. the caller's processors
    9. a check that a token is left

    prompt_length   how many of the token ids are not output
    stop_token_ids  the ids that end this text
    bad_word_ids    Options.bad_words as ids

    The pipeline raises ConstraintError when no token is left, and OptionError naming processors[i]
    when a processor of the caller returns something that is not a row of scores.
    """
    stops = tuple(stop_token_ids)
    words = tuple(word for word in bad_word_ids if not (len(word) == 1 and word[0] in stops))
    output = (options.presence_penalty, options.frequency_penalty)
    holds_back = options.min_new_tokens > 0 and bool(stops)
    steps: list[tuple[bool, Processor]] = [
        (tokenizer_size < vocab_size, rules.VocabularySize(tokenizer_size)),
        (bool(options.logit_bias), _logit_bias(options.logit_bias)),
        (options.repetition_penalty != 1, rules.RepetitionPenalty(options.repetition_penalty)),
        (output != (0, 0), rules.PresenceFrequency(*output, prompt_length)),
        (options.no_repeat_ngram_size > 0, rules.NoRepeatNgram(options.no_repeat_ngram_size)),
        (bool(words), rules.BadWords(words)),
        (holds_back, rules.MinNewTokens(options.min_new_tokens, stops, prompt_length)),
        *((True, rules.Checked(call, f"processors[{i}]")) for i, call in enumerate(options.processors)),
    ]
    chosen = [processor for is_on, processor in steps if is_on]
    if chosen:  # raw logits alone are checked where they are made
        chosen.append(rules.TokenLeft(prompt_length))
    return Pipeline(tuple(chosen))


def make_warpers(strategy: Sampling) -> Pipeline:
    """What a sampling strategy does to the scores, in this order; what is off is left out:

    1. temperature
    2. top-k
    3. top-p
    4. min-p
    5. typical-p

    At temperature 0, which is greedy, the pipeline is empty: the search takes the best token itself.
    """
    if strategy.temperature == 0:
        return Pipeline()
    steps: list[tuple[bool, Processor]] = [
        (strategy.temperature != 1, rules.Temperature(strategy.temperature)),
        (bool(strategy.top_k), rules.TopK(strategy.top_k or 0)),
        (strategy.top_p < 1, rules.TopP(strategy.top_p)),
        (strategy.min_p > 0, rules.MinP(strategy.min_p)),
        (strategy.typical_p < 1, rules.TypicalP(strategy.typical_p)),
    ]
    return Pipeline(tuple(processor for is_on, processor in steps if is_on))


def _logit_bias(biases: Mapping[int, float]) -> rules.LogitBias:
    ids = np.fromiter(biases.keys(), np.int64, len(biases))
    return rules.LogitBias(ids, np.fromiter(biases.values(), np.float64, len(biases)))
