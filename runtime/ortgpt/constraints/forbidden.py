"""Words that never appear, however they are tokenised."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ortgpt.constraints.fold import Fold
from ortgpt.constraints.text_tail import TextTail, ends_word, fold_case, holds_word, is_border
from ortgpt.constraints.vocabulary import Vocabulary
from ortgpt.interfaces import Floats, Ids


class ForbiddenWords:
    """Excludes every token that would complete a forbidden word; implements `ortgpt.interfaces.Constraint`.

    words     (word, whether only whole words count)
    before    what stands before the output: a word that the prompt begins is not completed either
    healed    bytes that the output begins with

    As a whole word one is also excluded where the text may still go on to a longer one, because
    what follows is not known yet.
    """

    def __init__(
        self, words: Sequence[tuple[str, bool]], vocabulary: Vocabulary, *, before: str, healed: bytes = b""
    ) -> None:
        self._words = [(fold_case(word), is_whole) for word, is_whole in words]
        self._vocabulary = vocabulary
        self._keep = max(len(word) for word, _ in self._words)  # one more than can be begun: the border
        self._whole_words = [word for word, is_whole in self._words if is_whole]
        self._before, self._healed = fold_case(before), healed
        self._start, _ = TextTail(self._before[-self._keep :]).followed_by(healed, self._keep)
        self._tail = Fold(self._start, self._advance)
        inside = [vocabulary.containing(word) for word, is_whole in self._words if not is_whole]
        inside += [self._holding_whole(word) for word, is_whole in self._words if is_whole]
        self._always: Ids = np.unique(np.concatenate(inside))

    def apply(self, generated: Ids, scores: Floats, /) -> Floats:
        tail = self._tail(generated)
        result = scores.copy()
        result[self._always] = -np.inf
        if tail.pending:
            result[self._completing_char(tail)] = -np.inf
        # What does not go on with a character shows U+FFFD first, and begins behind that.
        for ids in self._completing("\ufffd" if tail.pending else tail.text):
            result[ids] = -np.inf
        return result

    def may_end(self, generated: Ids, place: int | None = None, /) -> bool:
        if place is None or not self._whole_words:
            return True
        # Where a stop string cuts a longer word, what is left of it may be a whole word. That is seldom.
        data = b"".join(self._vocabulary.token_bytes(i) for i in generated if i < self._vocabulary.size)
        text = self._before + fold_case((self._healed + data).decode("utf-8", "replace"))
        cut = text[: len(self._before) + place]
        return not any(
            cut.endswith(word) and is_border(cut, len(cut) - len(word)) for word in self._whole_words
        )

    def is_complete(self, generated: Ids, /) -> bool:
        return False

    def owes(self, generated: Ids, /) -> bool:
        return False

    def fits(self, generated: Ids, token_ids: Sequence[int], /) -> bool:
        tail = self._tail(generated)
        for token_id in token_ids:
            before = tail.text
            tail, added = tail.followed_by(self._vocabulary.token_bytes(token_id), self._keep)
            if self._is_completed(before, added):
                return False
        return True

    def admits(self, data: bytes) -> bool:
        """Whether bytes right behind what stands before the output complete no word."""
        _, added = self._start.followed_by(data, self._keep)
        return not self._is_completed(self._start.text, added)

    def _advance(self, tail: TextTail, token_id: int) -> TextTail:
        if token_id >= self._vocabulary.size:
            return tail
        return tail.followed_by(self._vocabulary.token_bytes(token_id), self._keep)[0]

    def _completing(self, text: str) -> Iterator[Ids]:
        """Tokens that complete a word which the text has begun, or a whole word at its border."""
        for word, is_whole in self._words:
            first = 0 if is_whole else 1  # without a border, a word of the token's own is always excluded
            for begun in range(first, len(word)):
                if not text.endswith(word[:begun]) or (is_whole and not is_border(text, len(text) - begun)):
                    continue
                ids = self._vocabulary.starting(word[begun:])
                if is_whole:
                    rest = len(word) - begun
                    texts = self._vocabulary.texts
                    ids = np.array([i for i in ids if ends_word(texts[i], rest)], np.int64)
                yield ids

    def _completing_char(self, tail: TextTail) -> Ids:
        """Of the tokens that go on with half a character those that complete a word."""
        inside = np.flatnonzero(self._vocabulary.continues_char)
        added = ((int(i), self._vocabulary.added_text(tail.pending, int(i))) for i in inside)
        return np.array([i for i, text in added if self._is_completed(tail.text, text)], np.int64)

    def _holding_whole(self, word: str) -> Ids:
        """Tokens that hold the word between borders of their own."""
        texts = self._vocabulary.texts
        found = self._vocabulary.containing(word)
        return np.array([i for i in found if holds_word(texts[i], word, 1)], np.int64)

    def _is_completed(self, before: str, added: str) -> bool:
        """Whether a forbidden word ends in what is added."""
        text = before + added
        for word, is_whole in self._words:
            first = max(0, len(before) - len(word) + 1)
            if added and holds_word(text, word, first, is_whole=is_whole):
                return True
        return False
