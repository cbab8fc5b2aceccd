"""The bundle's tokenizer.json: the checkpoint's own, or built from GPT-2's vocab.json and merges.txt."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import (  # type: ignore[import-untyped]
    Tokenizer as Backend,
)
from tokenizers import decoders, models, pre_tokenizers, processors

from ortgpt.checks import shown
from ortgpt.errors import BundleError, CheckpointError
from ortgpt.interfaces import Tokenizer
from ortgpt.manifest import TOKENIZER_NAME
from ortgpt.text.tokenizer import library_errors_reported, load_tokenizer
from ortgpt_export.json_file import parse_object, read_bytes, read_object

END_OF_TEXT = "<|endoftext|>"
VOCAB_NAME, MERGES_NAME = "vocab.json", "merges.txt"


@dataclass(frozen=True)
class TokenizerFile:
    """tokenizer.json as bytes, and as the runtime will load it."""

    json: bytes
    loaded: Tokenizer
    notes: tuple[str, ...]


def tokenizer_files(directory: Path) -> list[Path]:
    """The files that the tokenizer comes from."""
    if (directory / TOKENIZER_NAME).exists():
        return [directory / TOKENIZER_NAME]
    if (directory / VOCAB_NAME).exists() and (directory / MERGES_NAME).exists():
        return [directory / MERGES_NAME, directory / VOCAB_NAME]
    raise CheckpointError(
        f"the checkpoint has no tokenizer: neither {TOKENIZER_NAME} nor {VOCAB_NAME} with {MERGES_NAME}"
    )


def read_tokenizer(directory: Path, vocab_size: int) -> TokenizerFile:
    """The tokenizer of a checkpoint whose embedding table has vocab_size rows.

    Truncation and padding, which would cut prompts silently, are taken out. Raises CheckpointError
    when the runtime would refuse the tokenizer, or when it knows ids that the model does not have;
    a smaller one (padded vocabulary) is legal and noted.
    """
    files = tokenizer_files(directory)
    try:
        is_ready = files[0].name == TOKENIZER_NAME
        data = _without_limits(read_bytes(files[0])) if is_ready else _build(directory)
        loaded = load_tokenizer(data)  # the runtime's own reader: what passes here passes there
    except BundleError as error:
        raise CheckpointError(str(error)) from None
    if loaded.size > vocab_size:
        raise CheckpointError(
            f"the tokenizer has {loaded.size} ids, but config.json has vocab_size = {vocab_size}",
            hint="it belongs to another model, or tokens were added without resizing the model",
        )
    return TokenizerFile(data, loaded, _notes(loaded.size, vocab_size))


def _notes(size: int, vocab_size: int) -> tuple[str, ...]:
    if size == vocab_size:
        return ()
    return (f"the tokenizer knows {size} of {vocab_size} ids; the others are never generated",)


def _without_limits(data: bytes) -> bytes:
    """tokenizer.json as it is, unless it sets truncation or padding."""
    content = parse_object(TOKENIZER_NAME, data)
    if content.get("truncation") is None and content.get("padding") is None:
        return data
    return json.dumps({**content, "truncation": None, "padding": None}, ensure_ascii=False).encode("utf-8")


def _build(directory: Path) -> bytes:
    """GPT-2's byte-level BPE, with <|endoftext|> as the special token."""
    vocabulary = read_object(directory / VOCAB_NAME)
    for token, token_id in vocabulary.items():
        if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id < 2**31:
            raise CheckpointError(f"{VOCAB_NAME}: {shown(token)} has the id {shown(token_id)}")
    merges = _read_merges(directory / MERGES_NAME)
    with library_errors_reported(f"{VOCAB_NAME} with {MERGES_NAME} can't be loaded"):
        tokenizer = Backend(models.BPE(vocabulary, merges, fuse_unk=False))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        if END_OF_TEXT in vocabulary:
            tokenizer.add_special_tokens([END_OF_TEXT])
        return str(tokenizer.to_str(pretty=True)).encode("utf-8")


def _read_merges(path: Path) -> list[tuple[str, str]]:
    """The pairs of merges.txt: one per line, first the most frequent, after a #version line."""
    try:
        lines = read_bytes(path).decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{MERGES_NAME} is not UTF-8: {error.reason} at byte {error.start}") from None
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r")
        if not line or line.startswith("#version"):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise CheckpointError(f"{MERGES_NAME}: line {number} is not a pair of tokens: {shown(line)}")
        merges.append((pair[0], pair[1]))
    return merges
