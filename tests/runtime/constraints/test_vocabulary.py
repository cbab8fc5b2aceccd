"""Looking tokens up by the text that they add."""

from __future__ import annotations

from pathlib import Path

import pytest

from ortgpt.constraints.text_tail import decode_on, fold_case, is_word_char
from ortgpt.constraints.vocabulary import Vocabulary
from ortgpt.interfaces import Tokenizer
from ortgpt.testing import ByteTokenizer
from ortgpt.text.tokenizer import load_tokenizer


@pytest.fixture(scope="module", params=["bytes", "storyteller"])
def tokenizer(request: pytest.FixtureRequest, storyteller: Path) -> Tokenizer:
    if request.param == "bytes":
        return ByteTokenizer()
    return load_tokenizer((storyteller / "tokenizer.json").read_bytes())


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    return Vocabulary(tokenizer)


@pytest.mark.parametrize("text", ["a", "th", " the", "\n", "é", "zzzzz"])
def test_tokens_are_found_by_beginning_and_content(
    vocabulary: Vocabulary, tokenizer: Tokenizer, text: str
) -> None:
    texts = [fold_case(decode_on(b"", tokenizer.token_bytes(i))[0]) for i in range(tokenizer.size)]
    assert sorted(vocabulary.starting(text)) == [i for i, own in enumerate(texts) if own.startswith(text)]
    assert sorted(vocabulary.containing(text)) == [i for i, own in enumerate(texts) if text in own]


@pytest.mark.parametrize("pending", [b"", b"\xc3", b"\xe6\x97"])
def test_no_token_that_puts_a_words_character_next_is_missed(
    vocabulary: Vocabulary, tokenizer: Tokenizer, pending: bytes
) -> None:
    may = vocabulary.may_continue_word(pending)
    for token_id in range(tokenizer.size):
        added = vocabulary.added_text(pending, token_id)
        if added and is_word_char(added[0]):
            assert may[token_id]
    assert not all(may)


def test_a_token_after_half_a_character_adds_what_the_text_shows(
    vocabulary: Vocabulary, tokenizer: Tokenizer
) -> None:
    for token_id in range(0, tokenizer.size, 7):
        added = vocabulary.added_text(b"\xe6", token_id)
        assert added == fold_case(decode_on(b"\xe6", tokenizer.token_bytes(token_id))[0])
