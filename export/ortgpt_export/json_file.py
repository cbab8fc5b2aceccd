"""Reads a JSON object from a checkpoint: small, regular, an object; else a CheckpointError."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ortgpt.errors import CheckpointError

MAX_JSON_BYTES = 64 << 20  # the largest tokenizer.json known are a fifth of this


def read_bytes(path: Path, max_bytes: int = MAX_JSON_BYTES) -> bytes:
    """The bytes of a regular file of at most max_bytes."""
    try:
        if not path.is_file():  # a pipe or a device would block
            raise CheckpointError(f"{path.name} is missing from the checkpoint, or not a regular file")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise CheckpointError(f"{path.name} can't be read: {error.strerror}") from None
    if len(data) > max_bytes:
        raise CheckpointError(f"{path.name} is larger than {max_bytes:,} bytes")
    return data


def read_object(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a file."""
    return parse_object(path.name, read_bytes(path, max_bytes))


def parse_object(name: str, data: bytes) -> dict[str, Any]:
    """The JSON object in `data`; `name` is what an error calls it."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:  # ValueError: also bad UTF-8 and huge integers
        reason = str(error)[:200] or type(error).__name__
        raise CheckpointError(f"{name} is not valid JSON: {reason}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{name} must be a JSON object")
    return value
