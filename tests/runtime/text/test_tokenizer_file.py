"""Every tokenizer.json that must be refused, and what is only warned of."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from ortgpt.errors import BundleError
from ortgpt.text import tokenizer_file
from ortgpt.text.tokenizer import load_tokenizer
from ortgpt.text.tokenizer_file import byte_alphabet

File = dict[str, Any]
MakeFile = Callable[..., File]

BROKEN_BYTES = {
    "empty": b"",
    "not JSON": b"tokenizer",
    "not UTF-8": b"\xff\xfe\xfd{}",
    "an array": b"[]",
    "another object": b'{"a": 1}',
    "a model that is no object": b'{"model": []}',
    "NaN": b'{"model": {"x": NaN}}',
    "an integer of 5,000 digits": b'{"model": ' + b"9" * 5000 + b"}",
    "deep nesting": b"[" * 100_000,
    "deep nesting inside": b'{"model": {"vocab": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
}


@pytest.mark.parametrize("data", BROKEN_BYTES.values(), ids=BROKEN_BYTES.keys())
def test_what_is_not_a_tokenizer_file_is_a_bundle_error(data: bytes) -> None:
    """FAULTS 18"""
    with pytest.raises(BundleError, match=r"^tokenizer\.json "):
        load_tokenizer(data)


def set_in(file: File, path: str, value: object) -> None:
    *parents, last = path.split("/")
    for key in parents:
        file = file[int(key) if isinstance(file, list) else key]
    file[last] = value


TRUNCATION = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 5}
UNDEFINED_SPECIAL = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [],
    "special_tokens": {},
}
STRIP_DECODER = {"type": "Sequence", "decoders": [{"type": "Strip", "content": "x", "start": 2, "stop": 3}]}
FIXED_LENGTH = {
    "type": "Sequence",
    "pretokenizers": [{"type": "FixedLength", "length": 0}, {"type": "ByteLevel"}],
}
BAD_REGEX = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "((("}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
    ],
}
BROKEN_VALUES = {
    "negative id": ("model/vocab/the", -1, "-1"),
    "id 2**32 - 1": ("model/vocab/the", 2**32 - 1, "4294967295"),
    "duplicate id": ("model/vocab/the", 5, "id 5 belongs to both"),
    "gap": ("model/vocab/the", 9000, "9000"),
    "id that is no integer": ("model/vocab/the", 1.0, "1.0"),
    "no vocabulary": ("model/vocab", None, "BPE"),
    "empty vocabulary": ("model/vocab", {}, "not usable"),
    "merge out of vocabulary": ("model/merges", [["zz", "q"]], "merge 0"),
    "merge whose result is out of vocabulary": ("model/merges", [["t", "h"], ["z", "q"]], "merge 1"),
    "merge of three": ("model/merges", [["t", "h", "e"]], "merge 0"),
    "merge as one word": ("model/merges", ["th"], "merge 0"),
    "merges missing": ("model/merges", None, "BPE"),
    "other model": ("model/type", "Unigram", "Unigram"),
    "other decoder": ("decoder", {"type": "WordPiece", "prefix": "##", "cleanup": True}, "WordPiece"),
    "no decoder": ("decoder", None, "decoder"),
    "no byte level": ("pre_tokenizer", {"type": "Whitespace"}, "ByteLevel"),
    "component without a type": ("normalizer", {"kind": "NFC"}, "structure"),
    "component of the wrong kind": ("pre_tokenizer", "ByteLevel", "structure"),
    "regex error": ("pre_tokenizer", BAD_REGEX, "can't be loaded"),
    "added token without an id": ("added_tokens", [{"content": "x", "special": True}], "structure"),
    "added token with another id": ("added_tokens/0/id", 3, "ids"),
    "added token at 2**32 - 1": ("added_tokens/0/id", 2**32 - 1, "ids"),
    "empty added token": ("added_tokens/0/content", "", "added token"),
    "lone surrogate": ("model/vocab/\ud800", 264, "can't be loaded"),
    # The six that made the library panic.
    "stride not below max_length": ("truncation", TRUNCATION, "stride"),
    "template with an undefined special token": ("post_processor", UNDEFINED_SPECIAL, "CLS"),
    "prefix longer than a merge": ("model/continuing_subword_prefix", "#####", "continuing_subword_prefix"),
    "Strip decoder": ("decoder", STRIP_DECODER, "Strip"),
    "FixedLength of 0": ("pre_tokenizer", FIXED_LENGTH, "FixedLength"),
    "Precompiled": ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "Precompiled"),
}


@pytest.mark.parametrize(("path", "value", "named"), BROKEN_VALUES.values(), ids=BROKEN_VALUES.keys())
def test_a_broken_file_is_a_bundle_error_naming_the_fault(
    make_file: MakeFile, path: str, value: object, named: str
) -> None:
    """FAULTS 18"""
    file = make_file()
    set_in(file, path, value)
    with pytest.raises(BundleError, match=r"^tokenizer\.json ") as caught:
        load_tokenizer(json.dumps(file).encode())
    assert named in str(caught.value)


@pytest.mark.parametrize("field", ["model", "decoder", "pre_tokenizer"])
def test_a_missing_field_is_a_bundle_error(make_file: MakeFile, field: str) -> None:
    """FAULTS 18"""
    file = make_file()
    del file[field]
    with pytest.raises(BundleError):
        load_tokenizer(json.dumps(file).encode())


def test_added_tokens_that_the_library_would_renumber_are_refused(make_file: MakeFile) -> None:
    """FAULTS 18"""
    file = make_file(added=("<a>", "<b>"))
    first, second = file["added_tokens"][1:]
    first["id"], second["id"] = second["id"], first["id"]
    with pytest.raises(BundleError, match="added tokens"):
        load_tokenizer(json.dumps(file).encode())


def test_several_faults_are_listed_at_once(make_file: MakeFile) -> None:
    file = make_file()
    file["decoder"] = None
    file["normalizer"] = {"type": "Precompiled"}
    with pytest.raises(BundleError, match=r"decoder.*Precompiled"):
        load_tokenizer(json.dumps(file).encode())


def test_a_file_over_the_size_limit_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_file, "MAX_FILE_BYTES", 10)
    with pytest.raises(BundleError, match="11 bytes, more than 10"):
        load_tokenizer(b"not even js")


def test_missing_bytes_are_warned_of(make_file: MakeFile, caplog: pytest.LogCaptureFixture) -> None:
    file = make_file()
    vocab = file["model"]["vocab"]
    vocab["xyz"] = vocab.pop("Ĉ")
    with caplog.at_level(logging.WARNING, logger="ortgpt"):
        load_tokenizer(json.dumps(file).encode())
    assert "1 of the 256 bytes" in caplog.text


def test_special_tokens_around_a_text_are_left_out_with_a_warning(
    make_file: MakeFile, caplog: pytest.LogCaptureFixture
) -> None:
    file = make_file()
    end = "<|endoftext|>"
    end_id = file["model"]["vocab"][end]
    file["post_processor"] = {
        **UNDEFINED_SPECIAL,
        "single": [{"SpecialToken": {"id": end, "type_id": 0}}],  # the text itself is left out too
        "special_tokens": {end: {"id": end, "ids": [end_id], "tokens": [end]}},
    }
    with caplog.at_level(logging.WARNING, logger="ortgpt"):
        tokenizer = load_tokenizer(json.dumps(file).encode())
    assert "adds special tokens" in caplog.text
    assert tokenizer.decode(tokenizer.encode("the end")) == "the end"
    assert end_id not in tokenizer.encode("the end")


def test_a_good_file_gives_no_warning(storyteller_json: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="ortgpt"):
        load_tokenizer(storyteller_json)
    assert not caplog.records


def test_the_byte_alphabet_is_that_of_gpt2() -> None:
    alphabet = byte_alphabet()
    assert sorted(alphabet.values()) == list(range(256))
    # Known from every GPT-2 vocabulary: space, newline, and a letter that stands for itself.
    assert (alphabet["Ġ"], alphabet["Ċ"], alphabet["A"]) == (0x20, 0x0A, 0x41)
