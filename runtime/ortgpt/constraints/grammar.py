"""A text of a given form: JSON of a schema, a pattern, a grammar, one of several texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from ortgpt.constraints.fold import Fold
from ortgpt.constraints.grammar_backend import MatcherError, advanced, allowed_tokens
from ortgpt.constraints.grammar_compiler import CompiledGrammar
from ortgpt.errors import ConstraintError
from ortgpt.interfaces import Floats, Ids

if TYPE_CHECKING:
    from ortgpt.constraints.grammar_backend import Matcher

T = TypeVar("T")


@dataclass
class _State:
    """Where a text is in the grammar. matcher: None behind a stop id."""

    matcher: Matcher | None
    is_accepted: bool
    allowed: NDArray[np.uint8] | None = None  # bits of the ids that may follow, once asked for


class GrammarConstraint:
    """Implements `ortgpt.interfaces.Constraint` for one kind of form, on the output of one sequence.

    Stop ids are allowed exactly where the text matches as it is, whatever text they stand for; other special
    ids never. Masks follow the language: every token that some matching text goes on with is allowed.
    Belongs to one run, and so to one thread at a time.

    Every method raises ConstraintError where `generated` is no beginning of a matching text, and where a
    step costs more than the backend's limits allow.
    """

    def __init__(self, grammar: CompiledGrammar, stop_token_ids: Sequence[int]) -> None:
        self._grammar = grammar
        self._stops = np.array(sorted(set(stop_token_ids)), np.int64)
        self._stop_set = frozenset(stop_token_ids)
        self._is_text = grammar.is_text.copy()  # (tokenizer size,)
        self._is_text[self._stops[self._stops < len(self._is_text)]] = False
        self._text_bits = np.packbits(self._is_text, bitorder="little")
        self._is_careful = False
        self._start()

    def apply(self, generated: Ids, scores: Floats, /) -> Floats:
        """Scores float32 (vocab,), -inf for what can't follow. Raises ConstraintError where nothing can."""
        allowed, is_accepted = self._read(generated, lambda state: (self._allowed(state), state.is_accepted))
        size = len(self._is_text)
        constrained = np.full_like(scores, -np.inf)
        fits = np.unpackbits(allowed, count=size, bitorder="little").view(np.bool_)  # (size,)
        np.copyto(constrained[:size], scores[:size], where=fits)
        if is_accepted:
            constrained[self._stops] = scores[self._stops]
        if not allowed.any() and not (is_accepted and len(self._stops)):
            raise ConstraintError(
                "the text is complete: no token may follow"
                if is_accepted
                else f"no token continues the text in the form asked for, at step {len(generated)}"
            )
        return constrained

    def may_end(self, generated: Ids, place: int | None = None, /) -> bool:
        """Whether the text matches: as it is, or what is left of it where a stop cuts it."""
        if place is not None:  # seldom: the text is read anew
            tokenizer = self._grammar.tokenizer
            text = tokenizer.decode(generated.tolist())[:place]
            generated = np.array(tokenizer.encode(text), np.int64)
        try:
            return self._read(generated, lambda state: state.is_accepted)
        except ConstraintError:
            if place is None:
                raise
            return False

    def is_complete(self, generated: Ids, /) -> bool:
        """Whether the text matches, and no longer one that begins with it does."""
        return self._read(generated, lambda state: state.is_accepted and not self._allowed(state).any())

    def owes(self, generated: Ids, /) -> bool:
        return False

    def fits(self, generated: Ids, token_ids: Sequence[int], /) -> bool:
        """Whether these ids may come next; a stop id only as the last one, behind a text that matches."""
        return self._read(generated, lambda state: self._fits(state, [int(one) for one in token_ids]))

    def _start(self) -> None:
        self._root = self._grammar.root
        matcher = self._root.deep_copy()
        self._fold = Fold(_State(matcher, matcher.is_accepting()), self._advance)

    def _read(self, generated: Ids, look: Callable[[_State], T]) -> T:
        try:
            return look(self._fold(generated))
        except MatcherError:
            pass
        # All texts of this grammar share a lexer, so others may have used it up. From now on the work is done
        # in small steps: the backend bounds what it does from one mask to the next.
        self._is_careful = True
        try:
            self._grammar.renew(self._root)
            self._start()
            return look(self._fold(generated))
        except MatcherError as error:
            raise ConstraintError(f"the text can't be continued in the form asked for: {error}") from None

    def _advance(self, state: _State, token_id: int) -> _State:
        if state.matcher is None:
            raise ConstraintError("nothing may follow a stop id")
        if token_id in self._stop_set and state.is_accepted:
            return _State(None, True)
        if not self._is_known(token_id):
            raise ConstraintError(f"the token {token_id} is no text and does not end it here")
        if self._is_careful:
            self._allowed(state)
        matcher = advanced(state.matcher, [token_id])
        return _State(matcher, matcher.is_accepting())

    def _allowed(self, state: _State) -> NDArray[np.uint8]:
        """Bits of the text ids that may follow, lowest first."""
        if state.allowed is None:
            if state.matcher is None:
                return np.zeros_like(self._text_bits)
            mask = np.frombuffer(allowed_tokens(state.matcher), np.uint8)
            state.allowed = mask[: len(self._text_bits)] & self._text_bits
        return state.allowed

    def _fits(self, state: _State, token_ids: list[int]) -> bool:
        if state.matcher is None:
            return not token_ids
        text = token_ids[:-1] if token_ids and token_ids[-1] in self._stop_set else token_ids
        if not all(map(self._is_known, text)):
            return False
        if not self._is_careful and state.matcher.deep_copy().validate_tokens(text) == len(text):
            return len(text) == len(token_ids) or advanced(state.matcher, text).is_accepting()
        for token_id in text:  # the sure way: a lexer at its limit counts too few
            if not self._allowed(state)[token_id // 8] >> token_id % 8 & 1:
                return False
            state = self._advance(state, token_id)
        return len(text) == len(token_ids) or state.is_accepted

    def _is_known(self, token_id: int) -> bool:
        """Whether an id stands for text in this constraint."""
        return 0 <= token_id < len(self._is_text) and bool(self._is_text[token_id])


def bind(grammar: CompiledGrammar, stop_token_ids: Sequence[int]) -> GrammarConstraint:
    """The constraint on one sequence that these ids end."""
    return GrammarConstraint(grammar, stop_token_ids)
