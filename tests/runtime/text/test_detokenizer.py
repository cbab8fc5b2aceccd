"""The incremental detokenizer against decoding everything at once."""

from __future__ import annotations

import random

from ortgpt.testing import ByteTokenizer
from ortgpt.text.detokenizer import Detokenizer
from ortgpt.text.tokenizer import TextTokenizer


def feed_all(detokenizer: Detokenizer, ids: list[int]) -> list[str]:
    return [detokenizer.feed(token_id) for token_id in ids]


def test_joined_pieces_equal_decode_for_any_ids(tokenizer: TextTokenizer) -> None:
    rng = random.Random(3)
    for _ in range(3000):
        ids = [rng.randrange(rng.choice((257, tokenizer.size))) for _ in range(rng.randrange(20))]
        detokenizer = Detokenizer(tokenizer)
        pieces = feed_all(detokenizer, ids)
        assert "".join(pieces) + detokenizer.flush() == tokenizer.decode(ids)


def test_joined_pieces_equal_decode_for_any_bytes() -> None:
    rng = random.Random(4)
    # Bytes where UTF-8 changes its mind: ends of ranges, surrogates, overlong forms, above U+10FFFF.
    edges = b"A\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xc2\xdf\xe0\xe1\xed\xef\xf0\xf1\xf4\xf5\xff"
    for _ in range(5000):
        ids = rng.choices(edges, k=rng.randrange(8))
        detokenizer = Detokenizer(ByteTokenizer())
        assert "".join(feed_all(detokenizer, ids)) + detokenizer.flush() == ByteTokenizer().decode(ids)


def test_a_character_comes_with_its_last_byte_and_at_most_three_are_held() -> None:
    detokenizer = Detokenizer(ByteTokenizer())
    assert feed_all(detokenizer, list("é🙂x".encode())) == ["", "é", "", "", "", "🙂", "x"]
    assert detokenizer.flush() == ""


def test_an_invalid_byte_is_replaced_at_once_however_many_come() -> None:
    detokenizer = Detokenizer(ByteTokenizer())
    assert feed_all(detokenizer, [0xFF] * 500) == ["\ufffd"] * 500
    assert feed_all(detokenizer, [0xBF] * 500) == ["\ufffd"] * 500


def test_an_unfinished_character_is_replaced_at_the_end() -> None:
    detokenizer = Detokenizer(ByteTokenizer())
    assert feed_all(detokenizer, [0xF0, 0x9F, 0x98]) == ["", "", ""]
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.flush() == ""
    assert detokenizer.feed(0x80) == "\ufffd"  # does not complete what was flushed


def test_special_tokens_show_nothing_and_break_nothing() -> None:
    detokenizer = Detokenizer(ByteTokenizer())
    assert feed_all(detokenizer, [0xC3, 256, 0xA9]) == ["", "", "é"]


def test_a_copy_goes_its_own_way() -> None:
    detokenizer = Detokenizer(ByteTokenizer())
    detokenizer.feed(0xC3)
    twin = detokenizer.copy()
    assert twin.feed(0xA9) == "é"
    assert detokenizer.feed(0xA8) == "è"
