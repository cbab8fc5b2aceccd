"""Tokenizer files to read: the project's own, and small ones like GPT-2's to break on purpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ortgpt.text.tokenizer import TextTokenizer, load_tokenizer
from ortgpt.text.tokenizer_file import byte_alphabet

END = "<|endoftext|>"
MERGES = (("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ã", "©"), ("ð", "Ł"), ("ðŁ", "ĺ"), ("Ġ", "ðŁĺ"))

MakeFile = Callable[..., dict[str, Any]]


@pytest.fixture
def make_file() -> MakeFile:
    """make_file(added=("<x>",)) -> tokenizer.json like GPT-2's, with few merges, as an object."""

    def make(added: Sequence[str] = ()) -> dict[str, Any]:
        tokens = [*byte_alphabet(), *(first + second for first, second in MERGES), END]
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {"id": len(tokens) - 1 + i, "content": content, "special": i == 0, **flags}
                for i, content in enumerate((END, *added))
            ],
            "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
            "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False},
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "",
                "fuse_unk": False,
                "vocab": {token: token_id for token_id, token in enumerate(tokens)},
                "merges": [list(merge) for merge in MERGES],
            },
        }

    return make


@pytest.fixture(scope="session")
def storyteller_json() -> bytes:
    root = Path(__file__).resolve().parents[3]
    return (root / "models" / "storyteller" / "tokenizer.json").read_bytes()


@pytest.fixture(scope="session")
def tokenizer(storyteller_json: bytes) -> TextTokenizer:
    return load_tokenizer(storyteller_json)
