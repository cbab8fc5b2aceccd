"""Keywords that a text must hold: encouraged while there is room, written out when it runs short."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from itertools import chain, islice, permutations

import numpy as np

from ortgpt.constraints.fold import Fold
from ortgpt.constraints.keyword_forms import Form, Keyword
from ortgpt.constraints.keyword_state import KeywordReader, KeywordState
from ortgpt.constraints.text_tail import holds_word
from ortgpt.constraints.vocabulary import Vocabulary
from ortgpt.errors import ConstraintError
from ortgpt.interfaces import Floats, Ids

STATES = 512  # those of the rows, and of what is tried behind them
FORM_RESERVE = 16  # tokens that a grammar gets to close what is open
LOOKED_AT = 8  # of the best tokens: which of them leave a way open
MAX_ORDERS = 24

Fits = Callable[[Ids, Sequence[int]], bool]


class KeywordTask:
    """Brings the keywords into one sequence; implements `ortgpt.interfaces.Constraint`.

    At every step the tokens that are left suffice for the keywords that are missing. Where after any
    token they still would, the choice is free; else only tokens on the way to a keyword remain.

    keywords        distinct, case folded
    budget          tokens that may be generated
    stop_token_ids  excluded while a needed keyword is missing
    before          the prompt's last character, or ""
    healed          bytes that the output's text begins with
    others          whether the other constraints admit ids as the next ones
    has_form        whether a grammar is among them: then keywords come where it lets them
    is_boosted      False: keywords that are needed get no boost, because beams are kept by `progress`
    is_first_forced  the first token is not ours to choose
    """

    def __init__(
        self,
        keywords: Sequence[Keyword],
        vocabulary: Vocabulary,
        *,
        budget: int,
        stop_token_ids: Sequence[int],
        before: str = "",
        healed: bytes = b"",
        others: Fits = lambda generated, token_ids: True,
        has_others: bool = False,
        has_form: bool = False,
        is_boosted: bool = True,
        is_first_forced: bool = False,
    ) -> None:
        self._keywords, self._vocabulary, self._budget = keywords, vocabulary, budget
        self._stops = np.array(sorted(set(stop_token_ids)), np.int64)
        self._others, self._has_form = others, has_form
        self._reserve = FORM_RESERVE if has_form else len(keywords) if has_others else 0
        self._is_first_forced = is_first_forced
        reader = KeywordReader(keywords, vocabulary, frozenset(stop_token_ids))
        self._state = Fold(reader.start(before, healed), reader.advance, size=STATES)
        everyone = range(len(keywords))
        self._needed = frozenset(i for i in everyone if keywords[i].is_needed)
        self._boosted = frozenset(
            i for i in everyone if keywords[i].boost and (is_boosted or not keywords[i].is_needed)
        )
        self._inside = [
            frozenset(j for j in everyone if j != i and holds_word(keywords[j].text, keywords[i].text))
            for i in everyone
        ]  # the keywords that each stands in as a whole word

    @property
    def required(self) -> int:
        """Tokens that the keywords need at least."""
        nothing = np.zeros(0, np.int64)
        state = self._state(nothing)
        missing = self._needed - state.met - state.ending
        if not missing:
            return 0
        if self._is_first_forced:
            return 1 + self._cost(missing)
        return min(total for _, total in self._ways(state))

    def apply(self, generated: Ids, scores: Floats, /) -> Floats:
        state = self._state(generated)
        result = self._with_boost(state, scores)
        open_ones = self._needed - state.met
        if not open_ones:
            return result
        missing = open_ones - state.ending
        if missing:
            result = result.copy()
            result[self._stops] = -np.inf
        if self._is_first_forced and not len(generated):
            return result
        room = self._budget - len(generated)
        is_free = room - 1 >= self._cost(open_ones) + self._reserve
        if not missing:
            return result if is_free and not self._has_form else self._kept(state, result)
        if self._has_form:
            return self._placed(state, generated, result, room, is_free=is_free)
        return result if is_free else self._forced(state, generated, result, room)

    def may_end(self, generated: Ids, place: int | None = None, /) -> bool:
        state = self._state(generated)
        open_ones = self._needed - state.met
        if open_ones - state.ending:
            return False
        return place is None or place >= (state.tail.length if open_ones else state.met_end)

    def is_complete(self, generated: Ids, /) -> bool:
        return False

    def fits(self, generated: Ids, token_ids: Sequence[int], /) -> bool:
        return True

    def owes(self, generated: Ids, /) -> bool:
        return not self.may_end(generated)

    def progress(self, generated: Ids, /) -> int:
        """How many tokens of the needed keywords the output holds."""
        state = self._state(generated)
        there = self._needed & (state.met | state.ending)
        begun = (state.progress(form) for i in self._needed - there for form in self._keywords[i].forms)
        return sum(self._keywords[i].cost for i in there) + max(begun, default=0)

    def advances(self, generated: Ids, /) -> Ids:
        """Ids that begin a missing needed keyword or go on with it."""
        state = self._state(generated)
        missing = self._needed - state.met - state.ending
        return self._next_ids(state, missing)

    def _with_boost(self, state: KeywordState, scores: Floats) -> Floats:
        missing = self._boosted - state.met - state.ending
        if not missing:
            return scores
        result = scores.copy()
        for boost in {self._keywords[i].boost for i in missing}:
            ids = self._next_ids(state, {i for i in missing if self._keywords[i].boost == boost})
            result[ids] = scores[ids] + np.float32(boost)
        return result

    def _next_ids(self, state: KeywordState, missing: Set[int]) -> Ids:
        """Of each keyword the ids that go on with what is begun, or else those that begin it."""
        found: set[int] = set()
        for index in missing:
            forms = self._keywords[index].forms
            begun = {form.token_ids[k] for form in forms if (k := state.progress(form))}
            found |= begun or {form.token_ids[0] for form in forms if state.can_begin(form)}
        return np.array(sorted(found), np.int64)

    def _cost(self, missing: Set[int]) -> int:
        """Tokens that always suffice for these; one that stands inside another comes with it."""
        return sum(self._keywords[i].cost for i in missing if not self._inside[i] & missing)

    def _ways(self, state: KeywordState) -> Iterator[tuple[tuple[int, ...], int]]:
        """(ids that complete a missing keyword, tokens that it takes with all others behind it)."""
        missing = self._needed - state.met - state.ending
        goes_on = self._vocabulary.may_continue_word(state.tail.pending)
        for index in missing:
            beside = {i for i in missing if i != index and index not in self._inside[i]}
            for form in self._keywords[index].forms:
                for begun in {state.progress(form), 0}:
                    if not begun and not state.can_begin(form):
                        continue
                    rest = form.token_ids[begun:]
                    broken = state.ending & self._needed if goes_on[rest[0]] else frozenset()
                    yield rest, len(rest) + self._cost(beside | broken)

    def _forced(self, state: KeywordState, generated: Ids, scores: Floats, room: int) -> Floats:
        """Only the ways that the room allows; where other rules bar them all, a token that opens one."""
        ways = {
            rest[0]
            for rest, total in self._ways(state)
            if total <= room
            and self._others(generated, rest)
            and (total < room or self._lines_up(generated, rest))  # else a token fits between
        }
        if ways:
            return _only(scores, ways)
        if room - 1 < self._cost(self._needed - state.met):
            raise ConstraintError(
                f"no way is left to write the keywords at step {len(generated)}: {self._named(state)}"
            )
        openings = self._openings(generated, scores)
        return _only(scores, openings) if openings else scores

    def _lines_up(self, generated: Ids, first: tuple[int, ...]) -> bool:
        """Whether the other rules admit these ids and then all keywords still missing, in some order."""
        after = self._state(np.array([*generated, *first], np.int64))
        missing = self._needed - after.met - after.ending
        shortest = [min((form.token_ids for form in self._spaced(i)), key=len) for i in missing]
        orders = islice(permutations(shortest), MAX_ORDERS)
        return any(self._others(generated, (*first, *chain.from_iterable(order))) for order in orders)

    def _spaced(self, index: int) -> list[Form]:
        return [form for form in self._keywords[index].forms if form.is_spaced]

    def _openings(self, generated: Ids, scores: Floats) -> set[int]:
        """Of the best tokens those behind which all keywords still missing fit."""
        count = min(LOOKED_AT, len(scores))
        best = np.argpartition(scores, len(scores) - count)[len(scores) - count :]
        likely = (int(token_id) for token_id in best if scores[token_id] > -np.inf)
        return {token_id for token_id in likely if self._lines_up(generated, (token_id,))}

    def _kept(self, state: KeywordState, scores: Floats) -> Floats:
        """No token that goes on with a keyword at the text's end; a stop may come."""
        goes_on = self._vocabulary.may_continue_word(state.tail.pending)
        result = scores.copy()
        result[: len(goes_on)][goes_on] = -np.inf
        result[self._stops] = scores[self._stops]
        return result if not self._has_form or result.max() > -np.inf else scores

    def _placed(
        self, state: KeywordState, generated: Ids, scores: Floats, room: int, *, is_free: bool
    ) -> Floats:
        """Under a grammar, where keywords fit now: tokens that write them or after which they still fit."""
        fitting = [way for way in self._ways(state) if self._others(generated, way[0])]
        if not fitting:
            return scores
        # What the room no longer allows is begun only where nothing else is left.
        ways = {rest for rest, total in fitting if total <= room} or {rest for rest, _ in fitting}
        # Where not all of them fit one after the other, those that do are written at once.
        allowed = {rest[0] for rest in ways if self._lines_up(generated, rest)} or {rest[0] for rest in ways}
        if is_free:
            allowed |= self._openings(generated, scores)
        return _only(scores, allowed)

    def _named(self, state: KeywordState) -> str:
        return ", ".join(repr(self._keywords[i].text) for i in sorted(self._needed - state.met))


def _only(scores: Floats, ids: Set[int]) -> Floats:
    """The scores of these ids, -inf for all others. Where all have been excluded, they are let in again."""
    allowed = np.array(sorted(ids), np.int64)
    result = np.full_like(scores, -np.inf)
    kept = scores[allowed]
    result[allowed] = kept if kept.max() > -np.inf else 0
    return result
