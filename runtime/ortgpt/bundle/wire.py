"""Reads the protobuf wire format, just enough of ONNX's ModelProto to judge a graph.

Stricter than protobuf on purpose, so that onnxruntime can't see another graph than the one that was judged.
Nesting is followed to a fixed depth: a node's graphs are read, a graph inside those is only named.

Nothing is copied but names and typed numbers: a tensor's raw bytes are a view of what was given, so that
a file of gigabytes can be read through a memory map.
"""

from __future__ import annotations

import mmap
import struct
from typing import NamedTuple

from ortgpt.bundle.protobuf import (
    FieldReader,
    Fields,
    Malformed,
    Message,
    int32,
    integer,
    signed,
    text,
    texts,
)
from ortgpt.errors import BundleError
from ortgpt.manifest import GRAPH_NAME, Dialect

# Bounds the time that a hostile file can take. GPT-2 XL's fused graph has 50,000; a portable one of 80
# layers, which spells every axis out and may hold all of it twice, 1,000,000.
MAX_FIELDS = {"fused": 500_000, "portable": 4_000_000}

_FLOAT, _INT32, _INT64 = 1, 6, 7  # TensorProto.DataType
# Types whose values may lie in int32_data, as struct's letters: uint8, int8, int32, bool, float16 (its bits).
_IN_INT32 = {2: "B", 3: "b", _INT32: "i", 9: "B", 10: "H"}
_INTEGER, _TENSOR_TYPED, _GRAPH_TYPED = 2, 4, 5  # AttributeProto.AttributeType
_ORT_FORMAT = b"ORTM"  # at byte 4: onnxruntime would read its own format, whatever else the bytes mean


class Tensor(NamedTuple):
    """A tensor: inline `data` (little-endian), or key and value pairs that say where it lies."""

    name: str
    dims: tuple[int, ...]
    data_type: int
    data_location: int
    external: tuple[tuple[str, str], ...]
    data: bytes | memoryview | None


class Value(NamedTuple):
    """A graph input or output. shape: numbers, or names of free axes; None: not a tensor or no shape."""

    name: str
    element_type: int
    shape: tuple[int | str, ...] | None


class Node(NamedTuple):
    """A node.

    integers  its INT attributes
    nested    names of attributes that hold graphs or tensors
    tensors   by attribute: those that hold one tensor
    graphs    by attribute: those that hold one graph, unless the node is in such a graph itself
    """

    operator: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    integers: dict[str, int]
    nested: tuple[str, ...]
    tensors: dict[str, Tensor]
    graphs: dict[str, Graph]


class Graph(NamedTuple):
    """Nodes and what they read. sparse counts what no bundle may have."""

    nodes: tuple[Node, ...]
    initializers: tuple[Tensor, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    sparse: int


class Model(NamedTuple):
    """What a graph file holds. functions, training and sparse count what no bundle may have.

    producer  name and version of the program that wrote it
    """

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
    producer: str = ""

    @property
    def graph(self) -> Graph:
        """The outer graph alone."""
        return Graph(self.nodes, self.initializers, self.inputs, self.outputs, self.sparse)


_MODEL = Message(
    "ModelProto",
    {1: "int", 5: "int", 8: "many", 14: "many", 20: "many", 25: "many"}
    | dict.fromkeys((2, 3, 4, 6, 7), "bytes"),
)
_GRAPH = Message("GraphProto", {2: "bytes", 10: "bytes"} | dict.fromkeys((1, 5, 11, 12, 13, 15, 16), "many"))
_NODE = Message("NodeProto", dict.fromkeys((1, 2, 5, 9), "many") | dict.fromkeys((3, 4, 6, 7), "bytes"))
_ATTRIBUTE = Message(
    "AttributeProto",
    {2: "float", 3: "int", 7: "floats", 8: "ints", 20: "int"}
    | dict.fromkeys((1, 4, 5, 6, 13, 14, 22), "bytes")
    | dict.fromkeys((9, 10, 11, 15, 23), "many"),
)
_ONE_TENSOR, _ONE_GRAPH = 5, 6
_NESTED = (_ONE_TENSOR, _ONE_GRAPH, 10, 11, 14, 15, 22, 23)
_TENSOR = Message(
    "TensorProto",
    {1: "ints", 2: "int", 4: "floats", 5: "ints", 7: "ints", 8: "bytes", 9: "bytes", 12: "bytes"}
    | {13: "many", 14: "int", 16: "many"},
)
_TYPED = {4: _FLOAT, 5: _INT32, 7: _INT64}  # fields for typed values, and the type that they serve
_VALUE = Message("ValueInfoProto", {1: "bytes", 2: "bytes", 3: "bytes", 4: "many"})
_TYPE = Message("TypeProto", dict.fromkeys((1, 4, 5, 6, 7, 8, 9), "bytes"))
_TENSOR_TYPE = Message("TypeProto.Tensor", {1: "int", 2: "bytes"})
_SHAPE = Message("TensorShapeProto", {1: "many"})
_DIMENSION = Message("Dimension", {1: "int", 2: "bytes", 3: "bytes"})
_OPSET = Message("OperatorSetIdProto", {1: "bytes", 2: "int"})
_PAIR = Message("StringStringEntryProto", {1: "bytes", 2: "bytes"})


def read_model(
    data: bytes | memoryview | mmap.mmap, name: str = GRAPH_NAME, *, dialect: Dialect = "fused"
) -> Model:
    """Parse a serialised ModelProto, the file `name`. Raises BundleError on anything malformed, only that.

    The tensors are views of `data`, which has to live as long as they do.
    """
    try:
        if data[4:8] == _ORT_FORMAT:
            raise Malformed("it is in onnxruntime's own format")
        return _Reader(MAX_FIELDS[dialect]).model(memoryview(data))
    except Malformed as error:
        raise BundleError(f"{name} is not a readable ONNX graph: {error}") from None


class _Reader:
    def __init__(self, max_fields: int) -> None:
        self._reader = FieldReader(max_fields)

    def model(self, view: memoryview) -> Model:
        fields = self._reader.read(view, _MODEL)
        if 7 not in fields:
            raise Malformed("it holds no graph")
        graph = self._graph(fields[7][0], is_outer=True)
        opsets = (self._reader.read(item, _OPSET) for item in fields.get(8, ()))
        return Model(
            ir_version=integer(fields, 1),
            opsets=tuple((text(opset, 1), integer(opset, 2)) for opset in opsets),
            nodes=graph.nodes,
            initializers=graph.initializers,
            inputs=graph.inputs,
            outputs=graph.outputs,
            metadata=self._pairs(fields, 14),
            functions=len(fields.get(25, ())),
            training=len(fields.get(20, ())),
            sparse=graph.sparse,
            producer=f"{text(fields, 2)} {text(fields, 3)}".strip(),
        )

    def _graph(self, view: memoryview, *, is_outer: bool) -> Graph:
        fields = self._reader.read(view, _GRAPH)
        return Graph(
            nodes=tuple(self._node(item, is_outer) for item in fields.get(1, ())),
            initializers=tuple(self._tensor(item) for item in fields.get(5, ())),
            inputs=tuple(self._value(item) for item in fields.get(11, ())),
            outputs=tuple(self._value(item) for item in fields.get(12, ())),
            sparse=len(fields.get(15, ())),
        )

    def _node(self, view: memoryview, is_outer: bool) -> Node:
        fields = self._reader.read(view, _NODE)
        integers: dict[str, int] = {}
        tensors: dict[str, Tensor] = {}
        graphs: dict[str, Graph] = {}
        nested: list[str] = []
        names: set[str] = set()
        for item in fields.get(5, ()):
            attribute = self._reader.read(item, _ATTRIBUTE)
            name = text(attribute, 1)
            if name in names:
                raise Malformed("a node has an attribute twice")
            names.add(name)
            # Its type says which of its values counts, even where that is not written down.
            if int32(attribute, 20) == _INTEGER:
                integers[name] = integer(attribute, 3)
            held = [number for number in _NESTED if number in attribute]
            if held:
                nested.append(name)
            if held == [_ONE_TENSOR] and int32(attribute, 20) == _TENSOR_TYPED:
                tensors[name] = self._tensor(attribute[_ONE_TENSOR][0])
            if held == [_ONE_GRAPH] and int32(attribute, 20) == _GRAPH_TYPED and is_outer:
                graphs[name] = self._graph(attribute[_ONE_GRAPH][0], is_outer=False)
        return Node(
            operator=text(fields, 4),
            domain=text(fields, 7),
            name=text(fields, 3),
            inputs=texts(fields, 1),
            outputs=texts(fields, 2),
            integers=integers,
            nested=tuple(nested),
            tensors=tensors,
            graphs=graphs,
        )

    def _tensor(self, view: memoryview) -> Tensor:
        fields = self._reader.read(view, _TENSOR)
        data_type = int32(fields, 2)
        return Tensor(
            name=text(fields, 8),
            dims=tuple(map(signed, fields.get(1, ()))),
            data_type=data_type,
            data_location=int32(fields, 14),
            external=self._pairs(fields, 13),
            data=_inline_data(fields, data_type),
        )

    def _value(self, view: memoryview) -> Value:
        fields = self._reader.read(view, _VALUE)
        kind = self._reader.read(fields[2][0], _TYPE) if 2 in fields else {}
        tensor = self._reader.read(kind[1][0], _TENSOR_TYPE) if set(kind) in ({1}, {1, 6}) else {}
        shape = self._shape(tensor[2][0]) if 2 in tensor else None
        return Value(text(fields, 1), int32(tensor, 1), shape)

    def _shape(self, view: memoryview) -> tuple[int | str, ...]:
        axes = [self._reader.read(item, _DIMENSION) for item in self._reader.read(view, _SHAPE).get(1, ())]
        if any(1 in axis and 2 in axis for axis in axes):
            raise Malformed("an axis has both a size and a name")
        return tuple(integer(axis, 1) if 1 in axis else text(axis, 2) for axis in axes)

    def _pairs(self, fields: Fields, number: int) -> tuple[tuple[str, str], ...]:
        pairs = (self._reader.read(item, _PAIR) for item in fields.get(number, ()))
        return tuple((text(pair, 1), text(pair, 2)) for pair in pairs)


def _inline_data(fields: Fields, data_type: int) -> bytes | memoryview | None:
    """Raw bytes, or typed values of the tensor's own type turned into them."""
    held = [number for number in (*_TYPED, 9) if number in fields]
    if not held:
        return None
    if held == [9]:
        raw: memoryview = fields[9][0]
        return raw
    is_own = data_type in _IN_INT32 if held == [5] else _TYPED[held[0]] == data_type
    if len(held) > 1 or not is_own:
        raise Malformed("a tensor's values are not of the tensor's type")
    if data_type == _FLOAT:
        return b"".join(fields[4])
    numbers = list(map(signed, fields[held[0]]))
    try:
        return struct.pack(f"<{len(numbers)}{_IN_INT32.get(data_type, 'q')}", *numbers)
    except struct.error:
        raise Malformed("a number is longer than its type") from None
