"""The end of a text, as far as what comes next depends on it."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


@dataclass(frozen=True)
class TextTail:
    """The last characters of a text, case folded.

    text     at most as many as the constraint asked for
    pending  bytes of a character that is not complete
    length   characters of the output so far, without pending ones
    """

    text: str
    pending: bytes = b""
    length: int = 0

    def followed_by(self, data: bytes, keep: int) -> tuple[TextTail, str]:
        """The tail after a token's bytes, cut to `keep` characters, and the folded text they add."""
        if not data:
            return self, ""
        added, pending = decode_on(self.pending, data)
        folded = fold_case(added)
        text = (self.text + folded)[-keep:]
        return TextTail(text, pending, self.length + len(folded)), folded


def decode_on(pending: bytes, data: bytes) -> tuple[str, bytes]:
    """Text of bytes that follow `pending`, and what is left of an unfinished character.

    Invalid bytes become U+FFFD, as in the detokeniser.
    """
    decoder = _Utf8Decoder(errors="replace")
    text = decoder.decode(pending + data)
    return text, decoder.getstate()[0]


def fold_case(text: str) -> str:
    """Lower case, character by character, so that places in the text stay the same."""
    lowered = text.lower()
    if text.isascii():
        return lowered
    return "".join(low if len(low := char.lower()) == 1 else char for char in text)


def is_word_char(char: str) -> bool:
    """Whether a character is part of words, as in regular expressions."""
    return char.isalnum() or char == "_"


def find_word(text: str, word: str, first: int = 0, *, is_whole: bool = True) -> Iterator[int]:
    """Where the word stands in the text, from `first` on; a whole word stands between borders.

    A border is an end of the text, or a character that is not part of words.
    """
    place = text.find(word, first)
    while place >= 0:
        if not is_whole or (is_border(text, place) and ends_word(text, place + len(word))):
            yield place
        place = text.find(word, place + 1)


def holds_word(text: str, word: str, first: int = 0, *, is_whole: bool = True) -> bool:
    """Whether `find_word` finds any."""
    return next(find_word(text, word, first, is_whole=is_whole), None) is not None


def is_border(text: str, place: int) -> bool:
    """Whether a word may begin at this place."""
    return place == 0 or not is_word_char(text[place - 1])


def ends_word(text: str, place: int) -> bool:
    """Whether no word goes on at this place."""
    return place >= len(text) or not is_word_char(text[place])
