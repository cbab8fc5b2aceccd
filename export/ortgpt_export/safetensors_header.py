"""Checks the header of a safetensors file before the library sees it.

Layout: 8 bytes little-endian header length, the header (JSON), the tensors' bytes. The header maps a
name to {"dtype", "shape", "data_offsets": [begin, end]}; the offsets count from the header's end and
must cover the rest of the file exactly, without holes or overlaps.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from ortgpt.checks import shown
from ortgpt.errors import CheckpointError

MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS = 10_000
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
}


class TensorInfo(NamedTuple):
    """What a header says of one tensor: safetensors' dtype name, shape, byte range after the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file by name. Raises CheckpointError naming file and tensor."""
    if not path.is_file():
        raise CheckpointError(f"{path.name} is missing from the checkpoint, or not a regular file")
    try:
        header, data_bytes = _read_raw(path)
        return _parse(header, data_bytes)
    except OSError as error:
        raise CheckpointError(f"{path.name} can't be read: {error.strerror}") from None
    except _HeaderError as fault:
        raise CheckpointError(f"{path.name} is not a sound safetensors file: {fault}") from None


class _HeaderError(Exception):
    pass


def _read_raw(path: Path) -> tuple[bytes, int]:
    """(header, number of bytes after it)"""
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise _HeaderError("it is shorter than 8 bytes")
        length = int.from_bytes(prefix, "little")
        if length > MAX_HEADER_BYTES:
            raise _HeaderError(f"its header of {length:,} bytes is larger than {MAX_HEADER_BYTES:,}")
        if length > file_bytes - 8:
            raise _HeaderError(f"its header of {length:,} bytes does not fit into {file_bytes:,} bytes")
        return file.read(length), file_bytes - 8 - length


def _parse(header: bytes, data_bytes: int) -> dict[str, TensorInfo]:
    if not header.startswith(b"{"):
        raise _HeaderError("its header does not begin with {")
    try:
        entries = json.loads(header.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # ValueError: also bad UTF-8 and huge integers
        raise _HeaderError(f"its header is not JSON ({str(error)[:120] or type(error).__name__})") from None
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _HeaderError("__metadata__ does not map strings to strings")
    if len(entries) > MAX_TENSORS:
        raise _HeaderError(f"it has {len(entries):,} tensors, more than {MAX_TENSORS:,}")
    tensors = {name: _tensor(name, entry) for name, entry in entries.items()}
    _check_cover(tensors, data_bytes)
    return tensors


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        raise _HeaderError(f"the key {shown(next(n for n in names if names.count(n) > 1))} is there twice")
    return result


def _no_constant(name: str) -> float:
    raise _HeaderError(f"its header holds {name}")


def _tensor(name: str, entry: Any) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _HeaderError(f"{shown(name)} does not have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise _HeaderError(f"{shown(name)} has the unknown dtype {shown(dtype)}")
    if not _is_counts(shape):
        raise _HeaderError(f"{shown(name)} has the shape {shown(shape)}")
    if not _is_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _HeaderError(f"{shown(name)} has the data_offsets {shown(offsets)}")
    info = TensorInfo(dtype, tuple(shape), *offsets)
    if info.size * _BITS[dtype] != (info.end - info.begin) * 8:
        taken = info.end - info.begin
        raise _HeaderError(
            f"{shown(name)} has {taken:,} bytes, which is not a {dtype} of shape {shown(shape)}"
        )
    return info


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value
    )


def _check_cover(tensors: dict[str, TensorInfo], data_bytes: int) -> None:
    position = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin != position:
            raise _HeaderError(f"{shown(name)} begins at byte {info.begin:,}, {position:,} was expected")
        position = info.end
    if position != data_bytes:
        raise _HeaderError(f"its tensors take {position:,} bytes, {data_bytes:,} follow the header")
