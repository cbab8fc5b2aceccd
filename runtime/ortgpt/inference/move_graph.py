"""The graph that moves cells on a device: where NumPy can't reach, onnxruntime can.

    target[target_planes + target_cells] = source[source_planes + source_cells]

Written out as the few protobuf messages it takes, because the runtime imports no onnx. The output is bound
to the target's own memory: ScatterND then writes in place, on the CPU and on CUDA alike. All cells are read
(GatherND) before the first is written. Bits are moved four bytes at a time, whatever number they stand for.

| input | type and shape |
|---|---|
| source, target | float32 [cells, size / 4 bytes]: all cells of a buffer, one after the other |
| source_planes, target_planes | int64 [planes, 1, 1]: the first cell of a head in a layer's keys or values |
| source_cells, target_cells | int64 [1, moved, 1]: the cell within its plane |
"""

from __future__ import annotations

IR_VERSION, OPSET = 8, 13  # as old as what GatherND and ScatterND need, with no reduction
FLOAT32, INT64 = 1, 7  # TensorProto.DataType
INPUTS = ("source", "source_planes", "source_cells", "target", "target_planes", "target_cells")
OUTPUT = "moved"

# (operator, inputs, output)
_NODES = (
    ("Add", ("source_planes", "source_cells"), "from"),
    ("GatherND", ("source", "from"), "cells"),
    ("Add", ("target_planes", "target_cells"), "to"),
    ("ScatterND", ("target", "to", "cells"), OUTPUT),
)


def move_graph() -> bytes:
    """A serialised ModelProto."""
    nodes = [
        _field(1, *(_field(1, name) for name in inputs), _field(2, output), _field(4, operator))
        for operator, inputs, output in _NODES
    ]
    ports = {
        "source": (FLOAT32, ("source_size", "width")),
        "source_planes": (INT64, ("planes", 1, 1)),
        "source_cells": (INT64, (1, "moved", 1)),
        "target": (FLOAT32, ("target_size", "width")),
        "target_planes": (INT64, ("planes", 1, 1)),
        "target_cells": (INT64, (1, "moved", 1)),
    }
    graph = _field(
        7,
        *nodes,
        _field(2, "move"),
        *(_field(11, _port(name, *ports[name])) for name in INPUTS),
        _field(12, _port(OUTPUT, *ports["target"])),
    )
    return _number(1, IR_VERSION) + graph + _field(8, _number(2, OPSET))


def _port(name: str, element_type: int, axes: tuple[int | str, ...]) -> bytes:
    """A ValueInfoProto."""
    dimensions = [_field(1, _number(1, axis) if isinstance(axis, int) else _field(2, axis)) for axis in axes]
    tensor = _field(1, _number(1, element_type), _field(2, *dimensions))
    return _field(1, name) + _field(2, tensor)


def _field(number: int, *parts: bytes | str) -> bytes:
    """A field that holds bytes, a text or a message."""
    content = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    """A field that holds an integer."""
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last have the eighth bit set."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
