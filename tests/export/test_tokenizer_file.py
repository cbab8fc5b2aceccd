"""tokenizer.json: kept as it is, or built so that it encodes as transformers' GPT-2 tokenizer does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checkpoints import END, byte_tokenizer
from tokenizers import Tokenizer
from transformers import GPT2TokenizerFast

from ortgpt.errors import CheckpointError
from ortgpt_export.tokenizer_file import read_tokenizer, tokenizer_files

TEXTS = [
    "Once upon a time, there was a little fox.",
    " leading and  double  spaces\n\nand lines\t",
    "I'll, you've, it's 12,345 — naïve 日本語 🙂",
    f"The end.{END}The next{END}",
    "",
]


@pytest.fixture
def parts(storyteller: Path, tmp_path: Path) -> Path:
    """A checkpoint's vocab.json and merges.txt, as old checkpoints have them."""
    model = json.loads((storyteller / "tokenizer.json").read_text())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    pairs = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs) + "\n")
    return tmp_path


def test_tokenizer_json_is_kept_byte_for_byte(storyteller) -> None:
    file = read_tokenizer(storyteller, 4096)
    assert file.json == (storyteller / "tokenizer.json").read_bytes()
    assert (file.loaded.size, file.notes) == (4096, ())


def test_truncation_and_padding_are_taken_out(tmp_path) -> None:
    tokenizer = byte_tokenizer()
    plain = tokenizer.to_str()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert len(tokenizer.encode("twelve bytes").ids) == 8
    file = read_tokenizer(tmp_path, 257)
    assert json.loads(file.json) == json.loads(plain)
    assert len(Tokenizer.from_str(file.json.decode()).encode("twelve bytes").ids) == 12


def test_the_built_tokenizer_encodes_as_transformers_does(parts) -> None:
    ours = Tokenizer.from_str(read_tokenizer(parts, 4096).json.decode())
    theirs = GPT2TokenizerFast(vocab_file=str(parts / "vocab.json"), merges_file=str(parts / "merges.txt"))
    assert ours.get_vocab() == theirs.get_vocab()
    for text in TEXTS:
        ids = theirs.encode(text)
        assert ours.encode(text).ids == ids
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids)
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)


def test_the_built_tokenizer_equals_the_one_it_was_taken_from(parts, storyteller) -> None:
    built, original = read_tokenizer(parts, 4096), read_tokenizer(storyteller, 4096)
    assert built.loaded.special_ids == original.loaded.special_ids == {0}
    for text in TEXTS:
        assert built.loaded.encode(text) == original.loaded.encode(text)


def test_tokenizer_json_wins_over_the_parts(parts, storyteller) -> None:
    (parts / "tokenizer.json").write_bytes((storyteller / "tokenizer.json").read_bytes())
    assert [path.name for path in tokenizer_files(parts)] == ["tokenizer.json"]


def test_windows_line_ends_in_merges_are_read(parts) -> None:
    expected = read_tokenizer(parts, 4096).json
    path = parts / "merges.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_tokenizer(parts, 4096).json == expected


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(storyteller) -> None:
    with pytest.raises(CheckpointError, match=r"4096 ids, but config.json has vocab_size = 4095"):
        read_tokenizer(storyteller, 4095)


def test_a_smaller_tokenizer_is_legal_and_noted(storyteller) -> None:
    assert read_tokenizer(storyteller, 5000).notes == (
        "the tokenizer knows 4096 of 5000 ids; the others are never generated",
    )


@pytest.mark.parametrize("present", [[], ["vocab.json"], ["merges.txt"]])
def test_a_checkpoint_without_a_whole_tokenizer_is_refused(present, parts) -> None:
    for name in {"vocab.json", "merges.txt"} - set(present):
        (parts / name).unlink()
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        read_tokenizer(parts, 4096)


BROKEN_PARTS = [
    ("merges.txt", b"a b c\n", "line 1 is not a pair"),
    ("merges.txt", b"#version: 0.2\nab\n", "line 2 is not a pair"),
    ("merges.txt", b"\xff\xfe", "is not UTF-8"),
    ("merges.txt", b"nosuchtoken northeother\n", "can't be loaded"),
    ("vocab.json", b"[]", "must be a JSON object"),
    ("vocab.json", b'{"a": -1}', "has the id -1"),
    ("vocab.json", b'{"a": 4294967296}', "has the id 4294967296"),
    ("vocab.json", b'{"a": "0"}', "has the id '0'"),
    ("vocab.json", b"{}", "can't be loaded"),
]


@pytest.mark.parametrize(("name", "content", "problem"), BROKEN_PARTS)
def test_broken_parts_are_refused(name, content, problem, parts) -> None:
    (parts / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=problem):
        read_tokenizer(parts, 4096)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"null", b"\xff", b'{"version": "1.0"}', b'{"model": {"type": "WordPiece"}}'],
)
def test_a_broken_tokenizer_json_is_refused(content, tmp_path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer.json"):
        read_tokenizer(tmp_path, 4096)


def test_a_tokenizer_with_a_gap_in_its_ids_is_refused(storyteller, tmp_path) -> None:
    content = json.loads((storyteller / "tokenizer.json").read_text())
    token = next(token for token, token_id in content["model"]["vocab"].items() if token_id == 4095)
    content["model"]["vocab"][token] = 5000
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="tokenizer"):
        read_tokenizer(tmp_path, 8000)
