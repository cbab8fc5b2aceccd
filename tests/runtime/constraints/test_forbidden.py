"""Forbidden words: exactly the tokens that would complete one are excluded."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from ortgpt.constraints.forbidden import ForbiddenWords
from ortgpt.constraints.vocabulary import Vocabulary
from ortgpt.testing import ByteTokenizer


class PieceTokenizer(ByteTokenizer):
    """Bytes, and pieces of the words below, so that a word can be spelled in many ways."""

    PIECES = (
        b"ca",
        b"at",
        b"cat",
        b"cats",
        b" cat",
        b"t s",
        b"scat",
        b"o\xc3",
        b"\xa9t",
        b"t\xc3",
        b"ego",
        b"Cat.",
    )
    size = 257 + len(PIECES)

    def token_bytes(self, token_id: int) -> bytes:
        return self.PIECES[token_id - 257] if token_id >= 257 else super().token_bytes(token_id)


TOKENIZER = PieceTokenizer()
VOCABULARY = Vocabulary(TOKENIZER)
# Ids that spell and surround the words; the rest adds nothing to the test.
ALPHABET = [*b"catsego .C", 0xC3, 0xA9, 0xE6, *range(256, TOKENIZER.size)]


def shown(before: str, ids: list[int]) -> str:
    return before + TOKENIZER.decode(ids)


def holds(text: str, start: int, word: str, whole: bool) -> bool:
    """Whether the word ends behind `start`."""
    pattern = rf"(?<!\w)({re.escape(word)})(?!\w)" if whole else f"({re.escape(word)})"
    return any(match.end(1) > start for match in re.finditer(f"(?={pattern})", text, re.I))


@pytest.mark.parametrize("whole", [False, True], ids=["anywhere", "whole words"])
def test_exactly_what_would_complete_a_word_is_excluded(whole: bool) -> None:
    rng = random.Random(4)
    words = ["cat", "Cat s", "té"]
    for _ in range(300):
        before = rng.choice(["", "c", "ca", "x ", "é"])
        constraint = ForbiddenWords([(word, whole) for word in words], VOCABULARY, before=before)
        ids: list[int] = []
        for _ in range(8):
            scores = constraint.apply(np.array(ids, np.int64), np.zeros(TOKENIZER.size, np.float32))
            for token_id in ALPHABET:
                text = shown(before, [*ids, token_id])
                # Half a character at the end shows U+FFFD only if nothing completes it.
                settled = (
                    text.removesuffix("\ufffd") if TOKENIZER.token_bytes(token_id)[-1:] >= b"\x80" else text
                )
                is_bad = any(holds(settled, len(before), word, whole) for word in words)
                assert (scores[token_id] == -np.inf) == is_bad, (before, ids, token_id, text)
            ids.append(rng.choice([i for i in ALPHABET if scores[i] > -np.inf]))


def test_scores_of_other_tokens_stay_and_the_input_is_not_written() -> None:
    scores = np.random.default_rng(5).normal(size=TOKENIZER.size).astype(np.float32)
    before = scores.copy()
    constraint = ForbiddenWords([("cat", False)], VOCABULARY, before="")
    result = constraint.apply(np.array([ord("c"), ord("a")]), scores)
    assert (scores == before).all()
    assert (result[result > -np.inf] == before[result > -np.inf]).all()


def test_a_sequence_fits_if_no_step_of_it_completes_a_word() -> None:
    constraint = ForbiddenWords([("cat", False)], VOCABULARY, before="")
    nothing = np.zeros(0, np.int64)
    assert constraint.fits(nothing, list(b"c at"))
    assert not constraint.fits(nothing, list(b"a cat."))
    assert not constraint.fits(np.array(list(b"CA")), [ord("T")])
    assert constraint.fits(np.array(list(b"cat")), list(b"s"))  # what has been is not judged again


def test_a_stop_may_not_cut_a_text_so_that_a_whole_word_is_left() -> None:
    constraint = ForbiddenWords([("cat", True)], VOCABULARY, before="a c", healed=b"a")
    text = "ts catsego"  # behind the healed "a"
    ids = np.array(list(text.encode()), np.int64)
    allowed = [place for place in range(len(text) + 2) if constraint.may_end(ids, place)]
    assert allowed == [0, 1, 3, 4, 5, 6, 8, 9, 10, 11]  # not behind "cat", the second time either
    assert ForbiddenWords([("cat", False)], VOCABULARY, before="").may_end(ids, 7)
