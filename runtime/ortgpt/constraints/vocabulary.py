"""What every token would add to a text, indexed by how it begins and by what it holds."""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ortgpt.constraints.text_tail import decode_on, fold_case, is_word_char
from ortgpt.interfaces import Ids, Tokenizer

LAST_CHAR = "\U0010ffff"


class Vocabulary:
    """The tokens' texts, case folded, as they would follow a text that ends with a whole character.

    texts            by id; "" for special tokens
    continues_char   bool (size,): its first byte can only be inside a character
    continues_word   bool (size,): its first character is, or may become, part of a word
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.size = tokenizer.size
        self._bytes = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.size)]
        self.texts = [fold_case(decode_on(b"", data)[0]) for data in self._bytes]
        order = sorted(range(self.size), key=self.texts.__getitem__)
        self._sorted_ids: Ids = np.array(order, np.int64)
        self._sorted_texts = [self.texts[token_id] for token_id in order]
        self.continues_char = np.array([0x80 <= data[0] < 0xC0 if data else False for data in self._bytes])
        self.continues_word = np.array(
            [
                is_word_char(text[0]) if text else bool(data)
                for text, data in zip(self.texts, self._bytes, strict=True)
            ]
        )
        self.containing = lru_cache(maxsize=1024)(self._containing)
        self.starting = lru_cache(maxsize=8192)(self._starting)

    def may_continue_word(self, pending: bytes) -> NDArray[np.bool_]:
        """bool (size,): which tokens may put a word's character next. pending: bytes of half a character."""
        # After half a character any other beginning shows U+FFFD first, which is part of no word.
        return self.continues_char if pending else self.continues_word

    def added_text(self, pending: bytes, token_id: int) -> str:
        """The folded text that a token adds to a text that ends with these bytes of a character."""
        if not pending:
            return self.texts[token_id]
        return fold_case(decode_on(pending, self._bytes[token_id])[0])

    def token_bytes(self, token_id: int) -> bytes:
        return self._bytes[token_id]

    def _containing(self, text: str) -> Ids:
        """Ids of the tokens that hold a folded text."""
        return np.array([i for i, own in enumerate(self.texts) if text in own], np.int64)

    def _starting(self, text: str) -> Ids:
        """Ids of the tokens that begin with a folded text."""
        first = bisect_left(self._sorted_texts, text)
        last = bisect_left(self._sorted_texts, text + LAST_CHAR)
        return self._sorted_ids[first:last]
