"""Log-probabilities of given text, for texts of any length."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ortgpt.errors import NonFiniteLogitsError
from ortgpt.interfaces import Decoder
from ortgpt.numerics import log_normaliser
from ortgpt.results import Score

# Logits of this many positions are in memory at once: 26 MB at a vocabulary of 50,257.
SCORED_AT_ONCE = 128


def score_tokens(
    token_ids: Sequence[int],
    *,
    context: int,
    num_given: int,
    stride: int,
    make_decoder: Callable[[], Decoder],
) -> Score:
    """Score token_ids[num_given:], each given what precedes it.

    A text longer than the context is read in windows: each moves on by `stride` tokens and scores
    only those that the window before has not, so every token but those of the first window sees at
    least context - stride tokens before it. The first token of all has nothing before it and gets None.
    """
    logprobs: list[float | None] = [None] * len(token_ids)
    for begin, end, first_new in windows(len(token_ids), context, stride):
        targets = range(max(first_new, num_given, begin + 1), end)
        if targets:
            logprobs[targets.start : end] = _score_window(
                token_ids[begin:end], targets.start - begin, make_decoder
            )
    scored = logprobs[num_given:]
    known = [value for value in scored if value is not None]
    total = math.fsum(known)
    perplexity = math.exp(min(700.0, -total / len(known))) if known else math.nan
    return Score(tuple(token_ids[num_given:]), tuple(scored), total, perplexity)


def windows(length: int, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(begin, end, first token not scored before) of each window over `length` tokens."""
    begin, scored = 0, 0
    while scored < length:
        end = min(begin + context, length)
        yield begin, end, scored
        begin, scored = begin + stride, end


def _score_window(
    token_ids: Sequence[int], first_target: int, make_decoder: Callable[[], Decoder]
) -> list[float | None]:
    """Log-probabilities of token_ids[first_target:]. The last token itself is never run."""
    decoder = make_decoder()
    try:
        values: list[float | None] = []
        unscored = first_target - 1  # these positions' logits predict nothing that is asked for
        if unscored:
            decoder.extend([token_ids[:unscored]])
        for begin in range(unscored, len(token_ids) - 1, SCORED_AT_ONCE):
            inputs = token_ids[begin : min(begin + SCORED_AT_ONCE, len(token_ids) - 1)]
            logits = decoder.extend([inputs], outputs="all").logits[0]  # (inputs, vocab)
            for offset, row in enumerate(logits):
                normaliser = log_normaliser(row)
                if not np.isfinite(normaliser):
                    raise NonFiniteLogitsError(begin + offset)
                values.append(float(row[token_ids[begin + offset + 1]] - normaliser))
        return values
    finally:
        decoder.release()
