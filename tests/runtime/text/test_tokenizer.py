"""The tokenizer against the tokenizers library and transformers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
import tokenizers
from transformers import PreTrainedTokenizerFast

from ortgpt.errors import BundleError, OptionError
from ortgpt.text.tokenizer import TextTokenizer, library_errors_reported, load_tokenizer

TEXTS = (
    "",
    "Once upon a time, there was a king.",
    "  two  spaces\n\n\tand tabs ",
    "naïve café 日本語 🙂👩‍👩‍👧 עברית",
    "NUL \x00, BOM \ufeff, replacement \ufffd, escape \x1b[0m",
    "x" * 3000,
    "it's we'll they'd 1,234.5",
)
File = dict[str, Any]
MakeFile = Callable[..., File]


def load(file: File) -> TextTokenizer:
    return load_tokenizer(json.dumps(file).encode())


@pytest.mark.parametrize("text", [*TEXTS, "before <|endoftext|> after<|endoftext|>"])
def test_encodes_as_transformers_does_special_tokens_in_the_text_included(
    storyteller_json: bytes, tokenizer: TextTokenizer, text: str
) -> None:
    """FAULTS 29"""
    backend = tokenizers.Tokenizer.from_str(storyteller_json.decode())
    assert tokenizer.encode(text) == PreTrainedTokenizerFast(tokenizer_object=backend)(text)["input_ids"]


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_gives_the_encoded_text_back(tokenizer: TextTokenizer, text: str) -> None:
    """FAULTS 29"""
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


def test_special_tokens_have_a_name_but_no_text(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode("a<|endoftext|>b")
    assert ids[1] == 0
    assert tokenizer.special_ids == {0}
    assert tokenizer.token_bytes(0) == b""
    assert tokenizer.token_text(0) == "<|endoftext|>"
    assert tokenizer.decode(ids) == "ab"


def test_decodes_any_ids_as_the_tokenizers_library_does(
    storyteller_json: bytes, tokenizer: TextTokenizer
) -> None:
    library = tokenizers.Tokenizer.from_str(storyteller_json.decode())
    rng = random.Random(7)
    for _ in range(3000):
        # Half of the ids are single bytes, which seldom make UTF-8.
        ids = [rng.randrange(rng.choice((257, tokenizer.size))) for _ in range(rng.randrange(12))]
        assert tokenizer.decode(ids) == library.decode(ids, skip_special_tokens=True)


def test_decodes_a_gpt2_like_byte_vocabulary_as_the_tokenizers_library_does(make_file: MakeFile) -> None:
    file = make_file()
    tokenizer, library = load(file), tokenizers.Tokenizer.from_str(json.dumps(file))
    rng = random.Random(8)
    sequences = [[token_id] for token_id in range(tokenizer.size)]
    sequences += [rng.choices(range(tokenizer.size), k=rng.randrange(9)) for _ in range(3000)]
    for ids in sequences:
        assert tokenizer.decode(ids) == library.decode(ids), ids


def test_a_token_shows_incomplete_characters_as_replacement(make_file: MakeFile) -> None:
    tokenizer = load(make_file())
    vocab = make_file()["model"]["vocab"]
    assert tokenizer.token_text(vocab["Ġthe"]) == " the"
    assert tokenizer.token_text(vocab["Ã"]) == "\ufffd"
    assert tokenizer.token_bytes(vocab["ðŁĺ"]) == b"\xf0\x9f\x98"


def test_ids_that_no_token_has_stand_for_nothing(tokenizer: TextTokenizer) -> None:
    for token_id in (tokenizer.size, -1, 2**40):
        assert tokenizer.token_bytes(token_id) == b""
        assert tokenizer.token_text(token_id) == ""


def test_added_tokens_that_are_not_special_stand_for_their_own_text(make_file: MakeFile) -> None:
    tokenizer = load(make_file(added=("<é Ġ>", "    ")))
    ids = tokenizer.encode("the<é Ġ>    x")
    assert ids[1:3] == [tokenizer.size - 2, tokenizer.size - 1]
    assert tokenizer.decode(ids) == "the<é Ġ>    x"


def test_longest_token_bounds_the_tokens_of_a_text_from_below(
    tokenizer: TextTokenizer, make_file: MakeFile
) -> None:
    """FAULTS 28"""
    for text in (*TEXTS, "<|endoftext|>" * 50, "thethethethe"):
        assert len(tokenizer.encode(text)) * tokenizer.longest_token >= len(text.encode())
    assert load(make_file()).longest_token == len("<|endoftext|>")
    assert load(make_file(added=("é" * 9,))).longest_token == 18


def test_truncation_padding_and_dropout_of_the_file_are_off(make_file: MakeFile) -> None:
    file = make_file()
    expected = load(file).encode("the the the")
    file["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    file["padding"] = {
        "strategy": {"Fixed": 20},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "!",
    }
    file["model"]["dropout"] = 1.0
    assert load(file).encode("the the the") == expected


def test_older_files_without_a_model_type_and_with_merges_as_strings_are_read(make_file: MakeFile) -> None:
    file, old = make_file(), make_file()
    del old["model"]["type"]
    old["model"]["merges"] = [" ".join(merge) for merge in old["model"]["merges"]]
    assert load(old).encode("the the café") == load(file).encode("the the café")


@pytest.mark.parametrize("text", [None, 5, b"bytes", ["a"], "lone \ud800 surrogate", "\udfff"])
def test_what_is_not_text_is_an_option_error(tokenizer: TextTokenizer, text: Any) -> None:
    """FAULTS 28, 29"""
    with pytest.raises(OptionError) as caught:
        tokenizer.encode(text)
    assert caught.value.option == "prompt"


def test_a_panic_of_the_library_becomes_a_bundle_error(make_file: MakeFile) -> None:
    """FAULTS 18: a PanicException is no Exception, and has no name to import."""
    file = make_file()
    file["model"]["continuing_subword_prefix"] = "a prefix longer than the tokens"
    with pytest.raises(BundleError, match=r"^it failed: ") as caught, library_errors_reported("it failed"):
        tokenizers.Tokenizer.from_str(json.dumps(file))
    assert type(caught.value.__context__).__name__ == "PanicException"


def test_an_interrupt_is_not_taken_for_a_panic() -> None:
    with pytest.raises(KeyboardInterrupt), library_errors_reported("it failed"):
        raise KeyboardInterrupt
