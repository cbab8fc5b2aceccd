"""Token ids to text, one at a time."""

from __future__ import annotations

import codecs

from ortgpt.interfaces import Tokenizer

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """Turns a growing sequence of ids into text that will not change any more.

    Bytes of an unfinished character are held, at most 3; a byte that can't belong to one becomes
    U+FFFD at once. Everything fed, joined, with `flush` at the end, equals `tokenizer.decode` of the
    ids. It starts empty, so a prompt that ends inside a character leaks nothing into the output.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = _Utf8Decoder(errors="replace")

    def feed(self, token_id: int) -> str:
        """The text that this token completes."""
        return self.feed_bytes(self._tokenizer.token_bytes(token_id))

    def feed_bytes(self, data: bytes) -> str:
        """The text that these bytes complete; they need not be a token's."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What was held: U+FFFD for an unfinished character, else nothing. Starts anew."""
        return self._decoder.decode(b"", final=True)

    def copy(self) -> Detokenizer:
        """An independent one in the same state."""
        twin = Detokenizer(self._tokenizer)
        twin._decoder.setstate(self._decoder.getstate())
        return twin
