"""Log-probabilities of given text, for texts of any length."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ortgpt.errors import NonFiniteLogitsError
from ortgpt.interfaces import Decoder, Floats
from ortgpt.numerics import log_normaliser
from ortgpt.results import Score

# Logits of this many positions are in memory at once: 26 MB at a vocabulary of 50,257.
SCORED_AT_ONCE = 128
MAX_ROWS = 32  # even a row of two tokens takes a cache of its own


@dataclass(frozen=True)
class ScoredText:
    """token_ids, of which the first num_given are not scored."""

    token_ids: Sequence[int]
    num_given: int


@dataclass(frozen=True)
class Scoring:
    """How texts are scored.

    Scored is token_ids[num_given:], each token given what precedes it. A text longer than the context is read
    in windows: each moves on by `stride` tokens and scores only those that the window before has not, so
    every token but those of the first window sees at least context - stride tokens before it. The first token
    of all has nothing before it and gets None.
    """

    context: int
    stride: int
    make_decoder: Callable[[int], Decoder]  # by the number of rows

    def score(self, text: ScoredText) -> Score:
        logprobs: list[float | None] = [None] * len(text.token_ids)
        for window in self._windows(text, ""):
            logprobs[window.first : window.end] = self._run([window])[0]
        return _summary(text, logprobs)

    def score_all(self, texts: Sequence[ScoredText]) -> list[Score]:
        """In order, each exactly as `score` gives it; those that fit share the model's runs."""
        logprobs: list[list[float | None]] = [[None] * len(text.token_ids) for text in texts]
        windows = [
            (index, window)
            for index, text in enumerate(texts)
            for window in self._windows(text, f"texts[{index}]")
        ]
        for group in _groups(windows, self.context):
            found = self._run([window for _, window in group])
            for (index, window), values in zip(group, found, strict=True):
                logprobs[index][window.first : window.end] = values
        return [_summary(text, values) for text, values in zip(texts, logprobs, strict=True)]

    def _windows(self, text: ScoredText, name: str) -> Iterator[_Window]:
        """Those that have something to score. name: what an error calls the text."""
        for begin, end, first_new in windows(len(text.token_ids), self.context, self.stride):
            first = max(first_new, text.num_given, begin + 1)
            if first < end:
                yield _Window(text.token_ids[begin:end], first, end, name)

    def _run(self, group: Sequence[_Window]) -> list[list[float | None]]:
        """Log-probabilities of the windows' last tokens, in rows of one decoder.

        Several windows have no more than one run's inputs, so each row is cut as it would be alone.
        """
        decoder = self.make_decoder(len(group))
        try:
            if group[0].num_unscored:
                decoder.extend([window.token_ids[: window.num_unscored] for window in group])
            found: list[list[float | None]] = [[] for _ in group]
            for begin in range(0, max(window.num_inputs for window in group), SCORED_AT_ONCE):
                inputs = [window.inputs(begin) for window in group]
                logits = decoder.extend(inputs, outputs="all").logits  # (rows, inputs, vocab)
                for row, window in enumerate(group):
                    found[row] += window.read(logits[row, : len(inputs[row])], begin)
            return found
        finally:
            decoder.release()


def windows(length: int, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(begin, end, first token not scored before) of each window over `length` tokens."""
    begin, scored = 0, 0
    while scored < length:
        end = min(begin + context, length)
        yield begin, end, scored
        begin, scored = begin + stride, end


@dataclass(frozen=True)
class _Window:
    """A part of a text that is run at once; its tokens first .. end - 1 of the whole text are scored."""

    token_ids: Sequence[int]
    first: int
    end: int
    name: str

    @property
    def num_inputs(self) -> int:
        """Tokens whose logits are asked for: one before each token that is scored."""
        return self.end - self.first

    @property
    def num_unscored(self) -> int:
        """Tokens before those. The last token of all is never run."""
        return len(self.token_ids) - 1 - self.num_inputs

    @property
    def order(self) -> tuple[bool, int, int]:
        return self.num_unscored > 0, self.num_inputs, len(self.token_ids)

    def inputs(self, begin: int) -> Sequence[int]:
        """From input `begin` on, as many as are run at once."""
        first = self.num_unscored + begin
        return self.token_ids[first : min(first + SCORED_AT_ONCE, len(self.token_ids) - 1)]

    def read(self, logits: Floats, begin: int) -> Iterator[float]:
        """What logits (inputs, vocab), from input `begin` on, say of the tokens behind them."""
        for place, row in enumerate(logits, start=self.num_unscored + begin):
            normaliser = log_normaliser(row)
            if not np.isfinite(normaliser):
                raise NonFiniteLogitsError(place, self.name)
            yield float(row[self.token_ids[place + 1]] - normaliser)


def _groups(windows: Sequence[tuple[int, _Window]], context: int) -> Iterator[list[tuple[int, _Window]]]:
    """Windows that run together: of like lengths, so that little of the rows is padding.

    Padded they are no more than is scored at once, and their cache is no longer than one row's can be. All
    rows of a group have tokens before those that are scored, or none has.
    """
    group: list[tuple[int, _Window]] = []
    longest, had_unscored = 0, False
    for index, window in sorted(windows, key=lambda pair: pair[1].order):
        rows, has_unscored = len(group) + 1, window.num_unscored > 0
        longest = max(longest, len(window.token_ids))
        # In this order the last one is the widest.
        fits = rows <= MAX_ROWS and rows * window.num_inputs <= SCORED_AT_ONCE and rows * longest <= context
        if group and not (fits and has_unscored == had_unscored):
            yield group
            group, longest = [], len(window.token_ids)
        group.append((index, window))
        had_unscored = has_unscored
    if group:
        yield group


def _summary(text: ScoredText, logprobs: Sequence[float | None]) -> Score:
    scored = logprobs[text.num_given :]
    known = [value for value in scored if value is not None]
    total = math.fsum(known)
    perplexity = math.exp(min(700.0, -total / len(known))) if known else math.nan
    return Score(tuple(text.token_ids[text.num_given :]), tuple(scored), total, perplexity)
