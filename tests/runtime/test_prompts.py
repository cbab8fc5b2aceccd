"""Prompts, texts and what a tokenizer puts before them."""

from __future__ import annotations

import pytest

from ortgpt.errors import ContextLengthError
from ortgpt.manifest import Architecture
from ortgpt.prompts import read_prompt, read_token_ids
from ortgpt.testing import END_OF_TEXT_ID, ByteTokenizer

SHAPE = Architecture(
    model_type="opt",
    layers=1,
    heads=1,
    head_size=8,
    cache_head_size=8,
    width=8,
    context=6,
    vocab_size=257,
    tokenizer_size=257,
    bos_token_id=0,
    eos_token_ids=(1,),
)


class Prefixed(ByteTokenizer):
    """Puts its special token before every prompt."""

    prefix_ids = (END_OF_TEXT_ID,)


def test_what_the_tokenizer_puts_before_a_text_stands_before_a_prompt() -> None:
    prompt = read_prompt("ab", Prefixed(), SHAPE)
    assert (prompt.text, prompt.token_ids) == ("ab", (END_OF_TEXT_ID, 97, 98))
    assert read_prompt("ab", ByteTokenizer(), SHAPE).token_ids == (97, 98)


def test_an_empty_prompt_is_what_stands_before_one_or_the_bos_id() -> None:
    assert read_prompt("", Prefixed(), SHAPE).token_ids == (END_OF_TEXT_ID,)
    assert read_prompt("", ByteTokenizer(), SHAPE).token_ids == (0,)


@pytest.mark.parametrize("ids", [[97, 98], [END_OF_TEXT_ID, 97]])
def test_ids_are_taken_as_they_are(ids: list[int]) -> None:
    assert read_prompt(ids, Prefixed(), SHAPE).token_ids == tuple(ids)


def test_a_text_that_continues_another_has_nothing_before_it() -> None:
    assert read_token_ids("ab", Prefixed(), SHAPE, "text") == (97, 98)
    assert read_token_ids("ab", Prefixed(), SHAPE, "text", begins=True) == (END_OF_TEXT_ID, 97, 98)


def test_what_stands_before_a_prompt_counts_towards_the_context() -> None:
    assert len(read_prompt("abcde", Prefixed(), SHAPE).token_ids) == SHAPE.context
    with pytest.raises(ContextLengthError, match="has 7 tokens, the model's context is 6"):
        read_prompt("abcdef", Prefixed(), SHAPE)
