"""Reads the protobuf wire format, just enough of ONNX's ModelProto to judge a graph.

Stricter than protobuf on purpose: an unknown field, a field of another wire type, a group, or a
singular field given twice (protobuf would merge the two) is refused, so that onnxruntime can't see
another graph than the one that was judged. Nesting is followed to a fixed depth and never recursively.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from ortgpt.errors import BundleError
from ortgpt.manifest import GRAPH_NAME

MAX_FIELDS = 500_000  # ten times what GPT-2 XL needs; bounds the time that a hostile file can take

_VARINT, _FIXED32, _BYTES = 0, 5, 2
_FLOAT, _INT32, _INT64 = 1, 6, 7  # TensorProto.DataType
_INTEGER = 2  # AttributeProto.AttributeType
_ORT_FORMAT = b"ORTM"  # at byte 4: onnxruntime would read its own format, whatever else the bytes mean


class Tensor(NamedTuple):
    """An initializer: inline `data` (little-endian), or key and value pairs that say where it lies."""

    name: str
    dims: tuple[int, ...]
    data_type: int
    data_location: int
    external: tuple[tuple[str, str], ...]
    data: bytes | None


class Value(NamedTuple):
    """A graph input or output. shape: numbers, or names of free axes; None: not a tensor or no shape."""

    name: str
    element_type: int
    shape: tuple[int | str, ...] | None


class Node(NamedTuple):
    """A node. integers: its INT attributes; nested: names of attributes that hold graphs or tensors."""

    operator: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    integers: dict[str, int]
    nested: tuple[str, ...]


class Model(NamedTuple):
    """What a graph file holds. functions, training and sparse count what no bundle may have."""

    ir_version: int
    opsets: tuple[tuple[str, int], ...]
    nodes: tuple[Node, ...]
    initializers: tuple[Tensor, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    metadata: tuple[tuple[str, str], ...]
    functions: int
    training: int
    sparse: int


class _Message(NamedTuple):
    """The fields of a message that may occur, by number.

    int, float, bytes: at most once. ints, floats: repeated, packed or not. many: repeated bytes.
    """

    name: str
    fields: dict[int, str]


_MODEL = _Message(
    "ModelProto",
    {1: "int", 5: "int", 8: "many", 14: "many", 20: "many", 25: "many"}
    | dict.fromkeys((2, 3, 4, 6, 7), "bytes"),
)
_GRAPH = _Message("GraphProto", {2: "bytes", 10: "bytes"} | dict.fromkeys((1, 5, 11, 12, 13, 15, 16), "many"))
_NODE = _Message("NodeProto", dict.fromkeys((1, 2, 5, 9), "many") | dict.fromkeys((3, 4, 6, 7), "bytes"))
_ATTRIBUTE = _Message(
    "AttributeProto",
    {2: "float", 3: "int", 7: "floats", 8: "ints", 20: "int"}
    | dict.fromkeys((1, 4, 5, 6, 13, 14, 22), "bytes")
    | dict.fromkeys((9, 10, 11, 15, 23), "many"),
)
_NESTED = (5, 6, 10, 11, 14, 15, 22, 23)
_TENSOR = _Message(
    "TensorProto",
    {1: "ints", 2: "int", 4: "floats", 5: "ints", 7: "ints", 8: "bytes", 9: "bytes", 12: "bytes"}
    | {13: "many", 14: "int", 16: "many"},
)
_TYPED = {4: _FLOAT, 5: _INT32, 7: _INT64}  # fields for typed values, and the type that they serve
_VALUE = _Message("ValueInfoProto", {1: "bytes", 2: "bytes", 3: "bytes", 4: "many"})
_TYPE = _Message("TypeProto", dict.fromkeys((1, 4, 5, 6, 7, 8, 9), "bytes"))
_TENSOR_TYPE = _Message("TypeProto.Tensor", {1: "int", 2: "bytes"})
_SHAPE = _Message("TensorShapeProto", {1: "many"})
_DIMENSION = _Message("Dimension", {1: "int", 2: "bytes", 3: "bytes"})
_OPSET = _Message("OperatorSetIdProto", {1: "bytes", 2: "int"})
_PAIR = _Message("StringStringEntryProto", {1: "bytes", 2: "bytes"})

_WIRE_TYPES = {
    "int": (_VARINT,),
    "ints": (_VARINT, _BYTES),
    "float": (_FIXED32,),
    "floats": (_FIXED32, _BYTES),
    "bytes": (_BYTES,),
    "many": (_BYTES,),
}


def read_model(data: bytes, name: str = GRAPH_NAME) -> Model:
    """Parse a serialised ModelProto, the file `name`. Raises BundleError on anything malformed, only that."""
    try:
        if data[4:8] == _ORT_FORMAT:
            raise _Malformed("it is in onnxruntime's own format")
        return _Reader().model(memoryview(data))
    except _Malformed as error:
        raise BundleError(f"{name} is not a readable ONNX graph: {error}") from None


class _Malformed(Exception):  # noqa: N818 (never leaves this module)
    """What is wrong with the bytes."""


class _Reader:
    def __init__(self) -> None:
        self._fields_left = MAX_FIELDS

    def model(self, view: memoryview) -> Model:
        fields = self._fields(view, _MODEL)
        if 7 not in fields:
            raise _Malformed("it holds no graph")
        graph = self._fields(fields[7][0], _GRAPH)
        opsets = (self._fields(item, _OPSET) for item in fields.get(8, ()))
        return Model(
            ir_version=_int(fields, 1),
            opsets=tuple((_text(opset, 1), _int(opset, 2)) for opset in opsets),
            nodes=tuple(self._node(item) for item in graph.get(1, ())),
            initializers=tuple(self._tensor(item) for item in graph.get(5, ())),
            inputs=tuple(self._value(item) for item in graph.get(11, ())),
            outputs=tuple(self._value(item) for item in graph.get(12, ())),
            metadata=self._pairs(fields, 14),
            functions=len(fields.get(25, ())),
            training=len(fields.get(20, ())),
            sparse=len(graph.get(15, ())),
        )

    def _node(self, view: memoryview) -> Node:
        fields = self._fields(view, _NODE)
        integers: dict[str, int] = {}
        nested: list[str] = []
        names: set[str] = set()
        for item in fields.get(5, ()):
            attribute = self._fields(item, _ATTRIBUTE)
            name = _text(attribute, 1)
            if name in names:
                raise _Malformed("a node has an attribute twice")
            names.add(name)
            # Its type says which of its values counts, even where that is not written down.
            if _int32(attribute, 20) == _INTEGER:
                integers[name] = _int(attribute, 3)
            if any(number in attribute for number in _NESTED):
                nested.append(name)
        return Node(
            operator=_text(fields, 4),
            domain=_text(fields, 7),
            name=_text(fields, 3),
            inputs=_texts(fields, 1),
            outputs=_texts(fields, 2),
            integers=integers,
            nested=tuple(nested),
        )

    def _tensor(self, view: memoryview) -> Tensor:
        fields = self._fields(view, _TENSOR)
        data_type = _int32(fields, 2)
        return Tensor(
            name=_text(fields, 8),
            dims=tuple(map(_signed, fields.get(1, ()))),
            data_type=data_type,
            data_location=_int32(fields, 14),
            external=self._pairs(fields, 13),
            data=_inline_data(fields, data_type),
        )

    def _value(self, view: memoryview) -> Value:
        fields = self._fields(view, _VALUE)
        kind = self._fields(fields[2][0], _TYPE) if 2 in fields else {}
        tensor = self._fields(kind[1][0], _TENSOR_TYPE) if set(kind) in ({1}, {1, 6}) else {}
        shape = self._shape(tensor[2][0]) if 2 in tensor else None
        return Value(_text(fields, 1), _int32(tensor, 1), shape)

    def _shape(self, view: memoryview) -> tuple[int | str, ...]:
        axes = [self._fields(item, _DIMENSION) for item in self._fields(view, _SHAPE).get(1, ())]
        if any(1 in axis and 2 in axis for axis in axes):
            raise _Malformed("an axis has both a size and a name")
        return tuple(_int(axis, 1) if 1 in axis else _text(axis, 2) for axis in axes)

    def _pairs(self, fields: dict[int, list[Any]], number: int) -> tuple[tuple[str, str], ...]:
        pairs = (self._fields(item, _PAIR) for item in fields.get(number, ()))
        return tuple((_text(pair, 1), _text(pair, 2)) for pair in pairs)

    def _fields(self, view: memoryview, message: _Message) -> dict[int, list[Any]]:
        """Values by field number: int for varints, memoryview for the rest."""
        found: dict[int, list[Any]] = {}
        position = 0
        while position < len(view):
            self._spend(1)
            tag, position = _varint(view, position)
            number, wire_type = tag >> 3, tag & 7
            kind = message.fields.get(number, "")
            if wire_type not in _WIRE_TYPES.get(kind, ()):
                raise _Malformed(f"{message.name} has field {number} of wire type {wire_type}")
            value, position = _value(view, position, wire_type)
            values = found.setdefault(number, [])
            if values and kind in ("int", "float", "bytes"):
                raise _Malformed(f"{message.name} has field {number} twice")
            if kind == "ints" and isinstance(value, memoryview):
                self._spend(len(value))
                values.extend(_varints(value))
            else:
                values.append(value)
        return found

    def _spend(self, count: int) -> None:
        self._fields_left -= count
        if self._fields_left < 0:
            raise _Malformed(f"it has more than {MAX_FIELDS} fields")


def _value(view: memoryview, position: int, wire_type: int) -> tuple[int | memoryview, int]:
    if wire_type == _VARINT:
        return _varint(view, position)
    length = 4
    if wire_type == _BYTES:
        length, position = _varint(view, position)
    if length > len(view) - position:
        raise _Malformed("it ends in the middle of a field")
    return view[position : position + length], position + length


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    """An unsigned 64-bit number of at most 10 bytes, and the position after it."""
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(view):
            raise _Malformed("it ends in the middle of a number")
        byte = view[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number >= 1 << 64:
                break
            return number, position
    raise _Malformed("a number is longer than 64 bits")


def _varints(view: memoryview) -> Iterator[int]:
    position = 0
    while position < len(view):
        number, position = _varint(view, position)
        yield number


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


def _int(fields: dict[int, list[Any]], number: int) -> int:
    return _signed(fields[number][0]) if number in fields else 0


def _int32(fields: dict[int, list[Any]], number: int) -> int:
    """protobuf would cut a longer number to 32 bits."""
    value = _int(fields, number)
    if not -(1 << 31) <= value < 1 << 31:
        raise _Malformed("a number is longer than 32 bits")
    return value


def _text(fields: dict[int, list[Any]], number: int) -> str:
    return _texts(fields, number)[0] if number in fields else ""


def _texts(fields: dict[int, list[Any]], number: int) -> tuple[str, ...]:
    try:
        return tuple(str(value, "utf-8") for value in fields.get(number, ()))
    except UnicodeDecodeError:
        raise _Malformed("a name is not UTF-8") from None


def _inline_data(fields: dict[int, list[Any]], data_type: int) -> bytes | None:
    """Raw bytes, or typed values of the tensor's own type turned into them."""
    held = [number for number in (*_TYPED, 9) if number in fields]
    if not held:
        return None
    if held == [9]:
        return bytes(fields[9][0])
    if len(held) > 1 or _TYPED[held[0]] != data_type:
        raise _Malformed("a tensor's values are not of the tensor's type")
    if data_type == _FLOAT:
        return b"".join(fields[4])
    numbers = list(map(_signed, fields[held[0]]))
    try:
        return struct.pack(f"<{len(numbers)}{'i' if data_type == _INT32 else 'q'}", *numbers)
    except struct.error:
        raise _Malformed("a number is longer than 32 bits") from None
