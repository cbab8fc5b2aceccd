"""Judges the tensors of a graph: what they hold, or refer to, is as much as their dims ask for."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ortgpt.bundle.wire import Tensor
from ortgpt.checks import shown

# ONNX's TensorProto.DataType: name and bytes of the element types that a bundle may use.
ELEMENT_TYPES = {
    1: ("float32", 4),
    2: ("uint8", 1),
    3: ("int8", 1),
    6: ("int32", 4),
    7: ("int64", 8),
    9: ("bool", 1),
    10: ("float16", 2),
}

MAX_RANK = 8
MAX_DIM = 2**31 - 1

_INLINE, _EXTERNAL = 0, 1
_EXTERNAL_KEYS = {"location", "offset", "length"}


def tensor_bytes(tensor: Tensor) -> int | None:
    """Bytes that an initializer's dims and type ask for; None where they are out of bounds."""
    if tensor.data_type not in ELEMENT_TYPES or len(tensor.dims) > MAX_RANK:
        return None
    size = ELEMENT_TYPES[tensor.data_type][1]
    for dim in tensor.dims:
        if not 0 <= dim <= MAX_DIM:
            return None
        size *= dim
    return size


def external_range(tensor: Tensor) -> tuple[str, int, int]:
    """(file, offset, length) of a checked external initializer."""
    fields = dict(tensor.external)
    return fields["location"], int(fields.get("offset", "0")), int(fields["length"])


def tensor_problem(tensor: Tensor, data_sizes: Mapping[str, int]) -> str | None:
    """What is wrong with it, or None. data_sizes: bytes of the files that it may lie in."""
    if tensor.data_type not in ELEMENT_TYPES:
        return f"has element type {tensor.data_type}, which no bundle uses"
    needed = tensor_bytes(tensor)
    if needed is None:
        return f"has impossible dims {shown(tensor.dims)}"
    if tensor.data_location == _EXTERNAL and tensor.data is None:
        return _external_problem(tensor, needed, data_sizes)
    if tensor.data_location != _INLINE or tensor.external:
        return "must hold its values or refer to them, not both"
    found = len(tensor.data or b"")
    return None if found == needed else f"holds {found} bytes, its dims ask for {needed}"


def _external_problem(tensor: Tensor, needed: int, data_sizes: Mapping[str, int]) -> str | None:
    fields = dict(tensor.external)
    if len(fields) < len(tensor.external) or not {"location", "length"} <= set(fields) <= _EXTERNAL_KEYS:
        keys = ", ".join(shown(key) for key, _ in tensor.external[:5])
        return f"must refer to its values by location, offset and length, found keys {keys or 'none'}"
    if fields["location"] not in data_sizes:
        return f"lies in {shown(fields['location'])}, only {' and '.join(data_sizes)} is allowed"
    for key in ("offset", "length"):
        if not re.fullmatch(r"[0-9]{1,18}", fields.get(key, "0")):
            return f"has {key} {shown(fields[key])}, which is not a count of bytes"
    name, offset, length = external_range(tensor)
    if length != needed:
        return f"has length {length}, its dims ask for {needed}"
    if offset + length > data_sizes[name]:
        return f"ends at byte {offset + length} of {name}, which has {data_sizes[name]}"
    return None
