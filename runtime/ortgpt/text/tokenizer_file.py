"""Reads tokenizer.json and checks it before the tokenizers library sees it.

The library accepts files that break the id table, and panics on others; what passes here is safe to
hand over. It is handed the checked data, written out again, never the original bytes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ortgpt.checks import shown
from ortgpt.errors import BundleError
from ortgpt.text.metaspace import byte_tokens, metaspace_problems, without_first_space
from ortgpt.text.template import adds_behind, leading_ids, template_problems

logger = logging.getLogger("ortgpt")

MAX_FILE_BYTES = 64 * 2**20
MAX_PROBLEMS_SHOWN = 5
BPE_SWITCHES = ("unk_token", "fuse_unk", "byte_fallback", "ignore_merges")

# What can panic on some text is left out on purpose: Precompiled, Strip, FixedLength, and all of Prepend and
# Replace but what Llama-2's files do with them.
NORMALIZERS = frozenset(("ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"))
PRE_TOKENIZERS = frozenset(
    (
        "ByteLevel",
        "CharDelimiterSplit",
        "Digits",
        "Punctuation",
        "Split",
        "UnicodeScripts",
        "Whitespace",
        "WhitespaceSplit",
    )
)
POST_PROCESSORS = frozenset(("ByteLevel", "TemplateProcessing"))
WRITES_SPACES = frozenset(("Metaspace", "Prepend", "Replace"))  # of Llama-2's kind only


@dataclass(frozen=True)
class AddedToken:
    """A token that is matched in the text before anything else, literally."""

    token_id: int
    content: str
    is_special: bool


@dataclass(frozen=True)
class TokenizerFile:
    """A checked tokenizer.json.

    The tokenizers library gets it in parts, because it takes three times the memory to read it whole:

    json           its components, without vocabulary and added tokens; truncation, padding and
                   post-processor are not used, nor is a space put before a text
    beginning      the same with the space that the file puts before a text; None: it puts none
    model          arguments of the library's BPE: vocabulary, merges, switches; dropout is not used
    added_entries  the added tokens in the file's order, with all their switches

    tokens         every token by id, gapless
    added          the added tokens by id
    prefix_ids     special tokens that the file puts before a text
    is_metaspace   whether tokens are written as Llama-2's are; else as bytes, like GPT-2's
    """

    json: str
    beginning: str | None
    model: dict[str, Any]
    added_entries: tuple[dict[str, Any], ...]
    tokens: tuple[str, ...]
    added: dict[int, AddedToken]
    prefix_ids: tuple[int, ...]
    is_metaspace: bool


def read_tokenizer_file(data: bytes) -> TokenizerFile:
    """Parse and check tokenizer.json. Raises BundleError naming what is wrong with it."""
    root = _parse(data)
    try:
        vocab = _vocab(root["model"])
        added = _added_tokens(root)
        problems = list(_problems(root, vocab, added))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"tokenizer.json does not have the expected structure: {shown(error)}") from None
    if problems:
        raise BundleError("tokenizer.json is not usable: " + "; ".join(problems[:MAX_PROBLEMS_SHOWN]))
    _warn_of_what_is_dropped(root, vocab)
    ids = vocab | {token.content: token.token_id for token in added}
    is_metaspace = _is_metaspace(root)
    pieces = without_first_space(root) if is_metaspace else root
    return TokenizerFile(
        json=_components(pieces),
        beginning=None if pieces == root else _components(root),
        model=_bpe_arguments(root["model"]),
        added_entries=tuple(root.get("added_tokens") or ()),
        tokens=tuple(sorted(ids, key=ids.__getitem__)),
        added={token.token_id: token for token in added},
        prefix_ids=leading_ids(_templates(root)),
        is_metaspace=is_metaspace,
    )


def byte_alphabet() -> dict[str, int]:
    """The byte that each of the 256 characters of a byte-level vocabulary stands for.

    Visible Latin-1 characters stand for themselves, the other bytes, in order, are written as
    U+0100 onwards.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def _parse(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_FILE_BYTES:
        raise BundleError(f"tokenizer.json has {len(data)} bytes, more than {MAX_FILE_BYTES}")
    try:
        root = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # ValueError: also bad UTF-8 and huge integers
        reason = str(error)[:200] if isinstance(error, ValueError) else "it is nested too deeply"
        raise BundleError(f"tokenizer.json is not valid JSON: {reason}") from None
    if not isinstance(root, dict) or not isinstance(root.get("model"), dict):
        raise BundleError('tokenizer.json must be a JSON object with a "model"')
    return root


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _vocab(model: dict[str, Any]) -> dict[str, int]:
    kind = model.get("type", "BPE")  # older files do not name it
    if kind != "BPE" or not isinstance(model.get("vocab"), dict) or not isinstance(model.get("merges"), list):
        raise BundleError(f"tokenizer.json has model {shown(kind)}; only BPE is supported")
    vocab: dict[str, int] = model["vocab"]
    for token, token_id in vocab.items():
        if type(token_id) is not int:
            raise ValueError(f"id of {token!r} is {shown(token_id)}")
    return vocab


def _added_tokens(root: dict[str, Any]) -> tuple[AddedToken, ...]:
    added = []
    for entry in root.get("added_tokens") or ():
        token = AddedToken(entry["id"], entry["content"], entry["special"])
        if type(token.token_id) is not int or not isinstance(token.content, str) or not token.content:
            raise ValueError(f"added token {shown(entry)}")
        added.append(token)
    return tuple(added)


def _problems(root: dict[str, Any], vocab: dict[str, int], added: tuple[AddedToken, ...]) -> Iterator[str]:
    yield from _id_problems(vocab, added)
    yield from _merge_problems(root["model"], vocab)
    yield from _component_problems(root)
    yield from _discarded_problems(root)
    yield from template_problems(_templates(root))
    known = {*vocab.values(), *(token.token_id for token in added)}
    if not known.issuperset(leading_ids(_templates(root))):
        yield "post-processor adds a token that there is not"


def _id_problems(vocab: dict[str, int], added: tuple[AddedToken, ...]) -> Iterator[str]:
    """Ids must be 0 .. size - 1, each the id of exactly one token."""
    owner: dict[int, str] = {}
    pairs = [*vocab.items(), *((token.content, token.token_id) for token in added)]
    for content, token_id in pairs:
        if owner.setdefault(token_id, content) != content:
            yield f"id {token_id} belongs to both {shown(owner[token_id])} and {shown(content)}"
        if vocab.get(content, token_id) != token_id:
            yield f"{shown(content)} has the ids {vocab[content]} and {token_id}"
    contents = [token.content for token in added]
    if len(set(contents)) != len(contents):
        yield "an added token is listed twice"
    size = len(owner)
    outside = [token_id for token_id in owner if not 0 <= token_id < size]
    if outside:
        yield f"{size} tokens must have the ids 0 to {size - 1}, but one has {shown(min(outside, key=abs))}"
    if not owner:
        yield "its vocabulary is empty"


def _merge_problems(model: dict[str, Any], vocab: dict[str, int]) -> Iterator[str]:
    for index, merge in enumerate(model["merges"]):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if type(parts) is not list or len(parts) != 2:
            yield f"merge {index} is {shown(merge)}, not a pair of tokens"
            continue
        left, right = parts
        if type(left) is not str or type(right) is not str:
            yield f"merge {index} is {shown(merge)}, not a pair of tokens"
        elif left not in vocab or right not in vocab or left + right not in vocab:
            yield f"merge {index}, {shown(merge)}, needs a token that the vocabulary does not have"
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            yield f"{name} is set, which neither GPT-2's kind of BPE nor Llama-2's has"


def _component_problems(root: dict[str, Any]) -> Iterator[str]:
    normalizers = _parts(root.get("normalizer"), "normalizers")
    splitters = _parts(root.get("pre_tokenizer"), "pretokenizers")
    processors = _parts(root.get("post_processor"), "processors")
    decoders = _parts(root.get("decoder"), "decoders")
    more: frozenset[str] = frozenset()
    if _is_metaspace(root):
        more = WRITES_SPACES
        yield from metaspace_problems(root["model"], normalizers, splitters, decoders)
    else:
        kinds = [part["type"] for part in decoders]
        if kinds != ["ByteLevel"]:
            yield f"its decoder is {shown(kinds or None)}; only those of GPT-2's and Llama-2's kind are known"
        if "ByteLevel" not in (part["type"] for part in (*normalizers, *splitters)):
            yield "neither its normalizer nor its pre-tokenizer turns text into bytes (ByteLevel)"
    for name, parts, known in (
        ("normalizer", normalizers, NORMALIZERS | more),
        ("pre-tokenizer", splitters, PRE_TOKENIZERS | more),
        ("post-processor", processors, POST_PROCESSORS),
    ):
        for part in parts:
            if part["type"] not in known:
                yield f"{name} {shown(part['type'])} is not supported"


def _is_metaspace(root: dict[str, Any]) -> bool:
    """Whether it is Llama-2's kind, which its decoder shows."""
    return any(part["type"] == "ByteFallback" for part in _parts(root.get("decoder"), "decoders"))


def _parts(component: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """The parts of a component: none, itself, or what its Sequence lists."""
    if component is None:
        return []
    if component["type"] != "Sequence":
        return [component]
    return [part for child in component[key] for part in _parts(child, key)]


def _discarded_problems(root: dict[str, Any]) -> Iterator[str]:
    """Parts that are not used here, but whose faults show that the file is broken."""
    truncation = root.get("truncation")
    if truncation is not None and not 0 <= truncation["stride"] < truncation["max_length"]:
        yield "truncation has a stride that is not below its max_length"


def _templates(root: dict[str, Any]) -> list[dict[str, Any]]:
    parts = _parts(root.get("post_processor"), "processors")
    return [part for part in parts if part["type"] == "TemplateProcessing"]


def _warn_of_what_is_dropped(root: dict[str, Any], vocab: dict[str, int]) -> None:
    if adds_behind(_templates(root)):
        logger.warning(
            "tokenizer.json adds special tokens that do not stand before the text; ortgpt does not add them"
        )
    alphabet = byte_tokens() if _is_metaspace(root) else byte_alphabet()
    missing = [byte for token, byte in alphabet.items() if token not in vocab]
    if missing:
        logger.warning(
            "tokenizer.json has no token for %d of the 256 bytes; characters that need them are lost",
            len(missing),
        )


def _components(root: dict[str, Any]) -> str:
    unused = dict.fromkeys(("truncation", "padding", "post_processor"))
    model = {"type": "BPE", "vocab": {}, "merges": []}
    try:
        return json.dumps(root | unused | {"model": model, "added_tokens": []})
    except RecursionError:
        raise BundleError("tokenizer.json is not valid JSON: it is nested too deeply") from None


def _bpe_arguments(model: dict[str, Any]) -> dict[str, Any]:
    switches = {name: model[name] for name in BPE_SWITCHES if model.get(name) is not None}
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
    return {"vocab": model["vocab"], "merges": merges, **switches}
