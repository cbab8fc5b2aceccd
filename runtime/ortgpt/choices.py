"""One sequence on its way from token ids to text: stops, hold-back, finish reasons."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ortgpt.errors import ConstraintError, OrtgptError
from ortgpt.interfaces import Constraint, Floats, Tokenizer
from ortgpt.numerics import best_ids, log_normaliser
from ortgpt.results import Event, FinishReason, ResultChoice, TokenLogprob
from ortgpt.text.detokenizer import Detokenizer
from ortgpt.text.stop import StopMatcher

logger = logging.getLogger("ortgpt")


@dataclass(frozen=True)
class Limits:
    """When a sequence ends. max_tokens: already cut to the room in the context."""

    max_tokens: int
    min_tokens: int
    stop_token_ids: frozenset[int]
    stop: tuple[str, ...]


class ChoiceState:
    """Takes a sequence's tokens one by one and gives the text that may be shown.

    prefix      text shown before the first token (echo)
    healed      what stands between prefix and first token: it is output, in which stop strings count. One
                that is complete there ends the sequence with its first token, whatever that is
    num_top     alternatives to report, None for no log-probabilities at all
    constraint  says when the text may end; the processors see to the rest
    """

    def __init__(
        self,
        index: int,
        tokenizer: Tokenizer,
        limits: Limits,
        *,
        prefix: str = "",
        healed: bytes = b"",
        num_top: int | None = None,
        constraint: Constraint | None = None,
    ) -> None:
        self.index = index
        self.finish_reason: FinishReason | None = None
        self.stop_reason: int | str | None = None
        self.error: OrtgptError | None = None
        self.token_ids: list[int] = []
        self._tokenizer, self._limits, self._num_top = tokenizer, limits, num_top
        self._constraint = constraint
        self._detokenizer = Detokenizer(tokenizer)
        self._matcher = StopMatcher(limits.stop)
        begun = self._detokenizer.feed_bytes(healed)
        self._unsent = prefix + self._matcher.feed(begun, self._may_cut)
        self.text = ""  # all that has been given so far
        self._logprob_sum = 0.0
        self._logprobs: list[TokenLogprob] = []

    @property
    def max_tokens(self) -> int:
        return self._limits.max_tokens

    @property
    def is_done(self) -> bool:
        return self.finish_reason is not None or self.error is not None

    @property
    def is_met(self) -> bool:
        """Whether the text, as it stands, holds to its constraints."""
        return self._constraint is None or self._constraint.may_end(self._ids())

    def copy(self) -> ChoiceState:
        """An independent one in the same state, for another continuation of the same sequence."""
        twin = copy.copy(self)
        twin.token_ids = self.token_ids.copy()
        twin._logprobs = self._logprobs.copy()
        twin._detokenizer, twin._matcher = self._detokenizer.copy(), self._matcher.copy()
        return twin

    def feed(self, token_id: int, logprob: float, logits: Floats, *, is_late: bool) -> Event:
        """Take the next token. logits: its raw row (vocab,). is_late: max_time has passed."""
        self.token_ids.append(token_id)
        self._logprob_sum += logprob
        if self._num_top is not None:
            self._logprobs.append(self._entry(token_id, logprob, logits))
        text = self._unsent + self._take(token_id, is_late)
        self._unsent = ""
        self.text += text
        return Event(self.index, text, (token_id,), logprob, self.finish_reason)

    def end(self, reason: FinishReason) -> Event:
        """End without another token: nothing was asked for, or the caller turned away."""
        self.finish_reason = reason
        text = self._unsent + self._flush()
        self._unsent = ""
        self.text += text
        return Event(self.index, text, (), None, reason)

    def choice(self, *, index: int | None = None, score: float | None = None) -> ResultChoice:
        """The sequence as it stands; "cancelled" if it has not ended.

        index and score replace its own: a beam gets both only when the search has ended.
        """
        if self.finish_reason is None:
            self.end("cancelled")
        assert self.finish_reason is not None
        return ResultChoice(
            index=self.index if index is None else index,
            text=self.text,
            token_ids=tuple(self.token_ids),
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            score=self._mean_logprob() if score is None else score,
            logprobs=tuple(self._logprobs) if self._num_top is not None else None,
        )

    def _mean_logprob(self) -> float | None:
        return self._logprob_sum / len(self.token_ids) if self.token_ids else None

    def _take(self, token_id: int, is_late: bool) -> str:
        limits = self._limits
        if token_id in limits.stop_token_ids and self._matcher.matched is None:
            self._finish("stop", token_id)
            return self._flush()  # without the text of the stop token
        text = self._matcher.feed(self._detokenizer.feed(token_id), self._may_cut)
        if self._matcher.matched is not None:
            self._finish("stop", self._matcher.matched)
        elif self._constraint is not None and self._constraint.is_complete(self._ids()):
            text += self._end_complete()
        elif len(self.token_ids) >= limits.max_tokens:
            self._finish("length")
            text += self._flush()
            if self._constraint is not None and self._constraint.owes(self._ids()):
                self._fail("the text has reached its length")
        elif is_late:
            self._finish("length", "max_time")
            text += self._flush()
            if not self.is_met:
                logger.warning("max_time has ended a text before it held to its constraints")
        return text

    def _may_cut(self, place: int) -> bool:
        """Whether a stop string that begins at this character of the output counts."""
        if len(self.token_ids) < self._limits.min_tokens:
            return False
        return self._constraint is None or self._constraint.may_end(self._ids(), place)

    def _end_complete(self) -> str:
        """End a text that nothing may follow; returns what was held back."""
        if self.is_met:
            self._finish("stop")
        else:
            self._fail("the grammar has come to its end")
        return self._flush()

    def _fail(self, event: str) -> None:
        """Where other rules have left keywords no place."""
        self.error = ConstraintError(f"{event} at step {len(self.token_ids)}, with keywords missing")

    def _ids(self) -> NDArray[np.int64]:
        return np.array(self.token_ids, np.int64)

    def _flush(self) -> str:
        """What was held back: half a character, or the beginning of a stop string that never came."""
        text = self._matcher.feed(self._detokenizer.flush(), lambda place: False)
        return text + self._matcher.flush()

    def _finish(self, reason: FinishReason, stop_reason: int | str | None = None) -> None:
        self.finish_reason, self.stop_reason = reason, stop_reason

    def _entry(self, token_id: int, logprob: float, logits: Floats) -> TokenLogprob:
        top: tuple[TokenLogprob, ...] = ()
        if self._num_top:
            normaliser = log_normaliser(logits)
            best = best_ids(logits, min(self._num_top, logits.size)).tolist()
            top = tuple(self._bare_entry(i, float(logits[i]) - normaliser) for i in best)
        return TokenLogprob(self._tokenizer.token_text(token_id), token_id, logprob, top)

    def _bare_entry(self, token_id: int, logprob: float) -> TokenLogprob:
        return TokenLogprob(self._tokenizer.token_text(token_id), token_id, logprob)
