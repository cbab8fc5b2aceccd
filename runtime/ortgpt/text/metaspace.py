"""Llama-2's kind of BPE: a space is written "▁", a byte that no token has "<0x0A>".

Its files come in two shapes. Older ones write spaces as a normalizer (Prepend, Replace), newer ones as a
pre-tokenizer (Metaspace). Most put a space before a text's beginning, which is none of the text's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ortgpt.checks import shown

SPACE = "▁"
DECODER = ("Replace", "ByteFallback", "Fuse", "Strip")

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_tokens() -> dict[str, int]:
    """The byte that each of the 256 tokens for bytes stands for."""
    return {f"<0x{byte:02X}>": byte for byte in range(256)}


def piece_bytes(token: str) -> bytes:
    """The bytes that a token of the vocabulary stands for."""
    byte = _BYTE.fullmatch(token)
    return bytes((int(byte[1], 16),)) if byte else token.replace(SPACE, " ").encode()


def metaspace_problems(
    model: dict[str, Any],
    normalizers: list[dict[str, Any]],
    splitters: list[dict[str, Any]],
    decoders: list[dict[str, Any]],
) -> Iterator[str]:
    """What these parts of a file do otherwise than Llama-2's; parts of other kinds are not judged here."""
    if model.get("byte_fallback") is not True:
        yield "its decoder knows bytes (ByteFallback), its model does not"
    writers = [
        *(part for part in normalizers if part["type"] == "Replace"),
        *(part for part in splitters if part["type"] == "Metaspace"),
    ]
    if len(writers) != 1:
        yield f"it writes spaces as {SPACE} in {len(writers)} places, not one"
    for part in (*normalizers, *splitters):
        if not _is_known(part):
            yield f"{part['type']} does something else than writing spaces as {SPACE}"
    if tuple(part["type"] for part in decoders) not in (DECODER, DECODER[:3]):
        yield f"its decoder is {shown([part['type'] for part in decoders])}"
    for part in decoders:
        if part["type"] == "Replace" and (_pattern(part), part.get("content")) != (SPACE, " "):
            yield f"its decoder does not write {SPACE} as a space"
        if part["type"] == "Strip" and (part.get("content"), part.get("start"), part.get("stop")) != (
            " ",
            1,
            0,
        ):
            yield "its decoder strips more than one space before a text"


def _is_known(part: dict[str, Any]) -> bool:
    match part["type"]:
        case "Prepend":
            return part.get("prepend") == SPACE
        case "Replace":
            return (_pattern(part), part.get("content")) == (" ", SPACE)
        case "Metaspace":
            return part.get("replacement") == SPACE
    return True


def _pattern(part: dict[str, Any]) -> str | None:
    pattern = part.get("pattern")
    return pattern.get("String") if isinstance(pattern, dict) else None


def without_first_space(root: dict[str, Any]) -> dict[str, Any]:
    """The same file without the space before a text's beginning."""
    return root | {name: _stripped(root.get(name)) for name in ("normalizer", "pre_tokenizer")}


def _stripped(component: Any) -> Any:
    if not isinstance(component, dict):
        return component
    if component["type"] == "Prepend":
        return None
    if component["type"] == "Metaspace":
        return component | {"prepend_scheme": "never", "add_prefix_space": False}
    for key in ("normalizers", "pretokenizers"):
        if key in component:
            parts = [_stripped(part) for part in component[key]]
            return component | {key: [part for part in parts if part is not None]}
    return component
