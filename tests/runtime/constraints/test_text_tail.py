"""The end of a text: decoding onwards, case, borders of words."""

from __future__ import annotations

import random
import re

import pytest

from ortgpt.constraints.text_tail import TextTail, decode_on, find_word, fold_case


def test_decoding_piece_by_piece_gives_what_decoding_all_gives() -> None:
    rng = random.Random(1)
    for _ in range(300):
        data = bytes(rng.choice((0x41, 0x20, 0xC3, 0xA9, 0xE6, 0x97, 0xA5, 0xF0, 0xFF)) for _ in range(12))
        text, pending = "", b""
        place = 0
        while place < len(data):
            step = rng.randint(1, 4)
            added, pending = decode_on(pending, data[place : place + step])
            text += added
            place += step
        assert len(pending) <= 3
        assert text + pending.decode("utf-8", "replace") == data.decode("utf-8", "replace")


def test_folding_keeps_every_character_in_its_place() -> None:
    text = "".join(chr(point) for point in range(0x20, 0x2FFF)) + "İ𐐀ẞ"
    folded = fold_case(text)
    assert len(folded) == len(text)
    assert fold_case(folded) == folded
    assert fold_case("GOLDEN Ärger ÉTÉ") == "golden ärger été"


def test_a_tail_holds_the_last_characters_and_counts_all() -> None:
    tail = TextTail("")
    for piece in (b"The go", b"lden \xc3", b"\xa9t\xc3\xa9"):
        tail, _ = tail.followed_by(piece, 6)
    assert tail == TextTail("en été", b"", 14)
    assert tail.followed_by(b"", 6) == (tail, "")


@pytest.mark.parametrize("word", ["a", "ab", "aa", "a b", "_a", "a-", "c++"])
def test_whole_words_are_those_of_a_regular_expression(word: str) -> None:
    rng = random.Random(2)
    pattern = re.compile(rf"(?<!\w)(?={re.escape(word)}(?!\w))")
    for _ in range(500):
        text = "".join(rng.choice("aab _-c+é") for _ in range(12))
        assert list(find_word(text, word)) == [match.start() for match in pattern.finditer(text)]
        within = [match.start() for match in re.finditer(f"(?={re.escape(word)})", text)]
        assert list(find_word(text, word, is_whole=False)) == within
