"""Which keywords a text holds, which are begun, and which end just where the text does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ortgpt.constraints.keyword_forms import Form, Keyword
from ortgpt.constraints.text_tail import TextTail, find_word, fold_case, is_border
from ortgpt.constraints.vocabulary import Vocabulary


@dataclass(frozen=True)
class KeywordState:
    """What follows from the output so far. Keywords are named by their index.

    tail     the text's end; at the very beginning the character before the output stands in it
    recent   the last ids, as many as a form can have behind it
    borders  for each of them whether a word could begin there
    met      keywords that are there, with something behind them that ends them
    ending   keywords that the text ends with: there, unless the next token goes on with them
    met_end  the character of the output where the last of the needed ones in `met` ends
    """

    tail: TextTail
    recent: tuple[int, ...] = ()
    borders: tuple[bool, ...] = ()
    met: frozenset[int] = frozenset()
    ending: frozenset[int] = frozenset()
    met_end: int = 0

    @property
    def is_at_border(self) -> bool:
        """Whether a word can begin now; half a character becomes U+FFFD when one does."""
        return bool(self.tail.pending) or is_border(self.tail.text, len(self.tail.text))

    def progress(self, form: Form) -> int:
        """How many ids of a form the output ends with, less than all."""
        for count in range(min(len(form.token_ids) - 1, len(self.recent)), 0, -1):
            if self.recent[-count:] == form.token_ids[:count] and (form.is_spaced or self.borders[-count]):
                return count
        return 0

    def can_begin(self, form: Form) -> bool:
        return form.is_spaced or self.is_at_border


class KeywordReader:
    """Follows an output token by token: the `advance` of a `Fold`."""

    def __init__(self, keywords: Sequence[Keyword], vocabulary: Vocabulary, silent: frozenset[int]) -> None:
        """silent: ids whose text is not shown, because they end the text."""
        self._keywords, self._vocabulary, self._silent = keywords, vocabulary, silent
        self._keep = max(len(keyword.text) for keyword in keywords) + 1  # and the border before it
        self._memory = max(len(form.token_ids) for keyword in keywords for form in keyword.forms) - 1

    def start(self, before: str, healed: bytes) -> KeywordState:
        """before: the prompt's last character, or "". healed: what the output begins with."""
        state = KeywordState(TextTail(fold_case(before)))
        return self._with_text(state, *state.tail.followed_by(healed, self._keep))

    def advance(self, state: KeywordState, token_id: int) -> KeywordState:
        if token_id >= self._vocabulary.size or token_id in self._silent:
            return state
        tail, added = state.tail.followed_by(self._vocabulary.token_bytes(token_id), self._keep)
        read = self._with_text(state, tail, added)
        if not self._memory:
            return read
        return replace(
            read,
            recent=(*state.recent, token_id)[-self._memory :],
            borders=(*state.borders, state.is_at_border)[-self._memory :],
        )

    def _with_text(self, state: KeywordState, tail: TextTail, added: str) -> KeywordState:
        if not added:
            return replace(state, tail=tail)
        text = state.tail.text + added
        begin = state.tail.length - len(state.tail.text)  # the output's character that text[0] is
        met, ending, met_end = set(state.met), set(), state.met_end
        for index, keyword in enumerate(self._keywords):
            if index in state.met:
                continue
            first = max(0, len(state.tail.text) - len(keyword.text), -begin)
            for place in find_word(text, keyword.text, first):
                end = place + len(keyword.text)
                if end == len(text):
                    ending.add(index)
                    continue
                met.add(index)
                if keyword.is_needed:
                    met_end = max(met_end, begin + end)
                break
        return replace(state, tail=tail, met=frozenset(met), ending=frozenset(ending - met), met_end=met_end)
