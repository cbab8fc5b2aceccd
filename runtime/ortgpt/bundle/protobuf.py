"""The protobuf wire format, read strictly: fields by number, nothing that could be understood in two ways.

An unknown field, a field of another wire type, a group, or a singular field given twice (protobuf would merge
the two) is refused. Messages inside messages are read by whoever knows them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

_VARINT, _FIXED32, _BYTES = 0, 5, 2

Fields = dict[int, list[Any]]
"""Values by field number: int for varints, memoryview for the rest."""


class Malformed(Exception):  # noqa: N818 (never leaves this room)
    """What is wrong with the bytes."""


class Message(NamedTuple):
    """The fields of a message that may occur, by number.

    int, float, bytes: at most once. ints, floats: repeated, packed or not. many: repeated bytes.
    """

    name: str
    fields: dict[int, str]


_WIRE_TYPES = {
    "int": (_VARINT,),
    "ints": (_VARINT, _BYTES),
    "float": (_FIXED32,),
    "floats": (_FIXED32, _BYTES),
    "bytes": (_BYTES,),
    "many": (_BYTES,),
}


class FieldReader:
    """Reads messages; max_fields bounds how many fields all of them may have together."""

    def __init__(self, max_fields: int) -> None:
        self._max_fields = self._fields_left = max_fields

    def read(self, view: memoryview, message: Message) -> Fields:
        found: Fields = {}
        position = 0
        while position < len(view):
            self._spend(1)
            tag, position = _varint(view, position)
            number, wire_type = tag >> 3, tag & 7
            kind = message.fields.get(number, "")
            if wire_type not in _WIRE_TYPES.get(kind, ()):
                raise Malformed(f"{message.name} has field {number} of wire type {wire_type}")
            value, position = _value(view, position, wire_type)
            values = found.setdefault(number, [])
            if values and kind in ("int", "float", "bytes"):
                raise Malformed(f"{message.name} has field {number} twice")
            if kind == "ints" and isinstance(value, memoryview):
                self._spend(len(value))
                values.extend(_varints(value))
            else:
                values.append(value)
        return found

    def _spend(self, count: int) -> None:
        self._fields_left -= count
        if self._fields_left < 0:
            raise Malformed(f"it has more than {self._max_fields} fields")


def _value(view: memoryview, position: int, wire_type: int) -> tuple[int | memoryview, int]:
    if wire_type == _VARINT:
        return _varint(view, position)
    length = 4
    if wire_type == _BYTES:
        length, position = _varint(view, position)
    if length > len(view) - position:
        raise Malformed("it ends in the middle of a field")
    return view[position : position + length], position + length


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    """An unsigned 64-bit number of at most 10 bytes, and the position after it."""
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(view):
            raise Malformed("it ends in the middle of a number")
        byte = view[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number >= 1 << 64:
                break
            return number, position
    raise Malformed("a number is longer than 64 bits")


def _varints(view: memoryview) -> Iterator[int]:
    position = 0
    while position < len(view):
        number, position = _varint(view, position)
        yield number


def signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


def integer(fields: Fields, number: int) -> int:
    return signed(fields[number][0]) if number in fields else 0


def int32(fields: Fields, number: int) -> int:
    """protobuf would cut a longer number to 32 bits."""
    value = integer(fields, number)
    if not -(1 << 31) <= value < 1 << 31:
        raise Malformed("a number is longer than 32 bits")
    return value


def text(fields: Fields, number: int) -> str:
    return texts(fields, number)[0] if number in fields else ""


def texts(fields: Fields, number: int) -> tuple[str, ...]:
    try:
        return tuple(str(value, "utf-8") for value in fields.get(number, ()))
    except UnicodeDecodeError:
        raise Malformed("a name is not UTF-8") from None
