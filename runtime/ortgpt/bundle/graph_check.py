"""Judges a parsed graph by the contract of its dialect, before onnxruntime sees the file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from ortgpt.bundle.quantised_check import quantised_problems, table_shape
from ortgpt.bundle.wire import Model, Tensor, Value
from ortgpt.checks import shown
from ortgpt.errors import BundleError
from ortgpt.graph_contract import FUSED_OPERATORS, Port, fused_inputs, fused_outputs
from ortgpt.manifest import GRAPH_NAME, Architecture, Manifest

OPERATORS = {"fused": FUSED_OPERATORS}

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

OPSETS = {"": range(13, 31), "com.microsoft": range(1, 2)}
IR_VERSIONS = range(4, 17)
MAX_RANK = 8
MAX_DIM = 2**31 - 1
MAX_PROBLEMS = 20

_LOOKUPS = ("Gather", "GatherBlockQuantized")
_INLINE, _EXTERNAL = 0, 1
_EXTERNAL_KEYS = {"location", "offset", "length"}


def check_graph(
    model: Model, manifest: Manifest, data_sizes: Mapping[str, int], name: str = GRAPH_NAME
) -> None:
    """Raise BundleError, which lists every problem, unless the graph keeps its dialect's contract.

    data_sizes  bytes of the files that the graph may refer to, one of which every external tensor must lie in
    name        the graph's file
    """
    problems = [
        *_header_problems(model),
        *_operator_problems(model, OPERATORS[manifest.dialect]),
        *_interface_problems(model, manifest),
        *_architecture_problems(model, manifest.architecture),
        *_initializer_problems(model, data_sizes),
        *quantised_problems(model),
    ]
    if problems:
        more = [f"and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
        raise BundleError(f"{name} is not usable: " + "; ".join(problems[:MAX_PROBLEMS] + more))


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


def _header_problems(model: Model) -> Iterator[str]:
    if model.ir_version not in IR_VERSIONS:
        yield f"ir_version {model.ir_version} is not known"
    versions = [(_domain(domain), version) for domain, version in model.opsets]
    for domain, version in versions:
        if version not in OPSETS.get(domain, ()):
            yield f"opset {version} of domain {shown(domain or 'ai.onnx')} is not known"
    if "" not in dict(versions) or len(dict(versions)) < len(versions):
        yield "it must import the ONNX opset, and no opset twice"
    for count, what in ((model.functions, "functions"), (model.training, "training information")):
        if count:
            yield f"it holds {what}"
    if model.sparse:
        yield "it holds sparse initializers"
    if any(key == "ort_config" for key, _ in model.metadata):
        yield "its metadata configures onnxruntime"


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _operator_problems(model: Model, operators: dict[str, frozenset[str]]) -> Iterator[str]:
    found = Counter((_domain(node.domain), node.operator) for node in model.nodes)
    for (domain, operator), count in found.items():
        if operator not in operators.get(domain, ()):
            full_name = f"{domain}.{operator}" if domain else operator
            yield f"operator {shown(full_name)} is not allowed ({count} nodes)"
    for node in model.nodes:
        for attribute in node.nested:
            yield f"node {shown(node.name)} holds a graph or a tensor in attribute {shown(attribute)}"
        # onnxruntime reads outside its memory where this is negative.
        batch_dims = node.integers.get("batch_dims", 0)
        if node.operator == "GatherND" and batch_dims != 1:
            yield f"node {shown(node.name)} has batch_dims {batch_dims}, only 1 is allowed"


def _interface_problems(model: Model, manifest: Manifest) -> Iterator[str]:
    """Inputs and outputs against the ports of the contract."""
    architecture = manifest.architecture
    if 2 * architecture.layers > min(len(model.inputs), len(model.outputs)):
        # Also keeps a manifest that names a billion layers from making a list of them.
        yield (
            f"{len(model.inputs)} inputs and {len(model.outputs)} outputs are too few "
            f"for the manifest's {architecture.layers} layers"
        )
        return
    kind = manifest.element_type
    inputs = fused_inputs(architecture, ragged_widths=manifest.ragged_widths, element_type=kind)
    yield from _port_problems("input", inputs, model.inputs)
    yield from _port_problems("output", fused_outputs(architecture, element_type=kind), model.outputs)


def _port_problems(kind: str, expected: Sequence[Port], found: Sequence[Value]) -> Iterator[str]:
    values = {value.name: value for value in found}
    if len(values) < len(found):
        yield f"two {kind}s have the same name"
    for port in expected:
        value = values.pop(port.name, None)
        if value is None:
            yield f"{kind} {port.name} is missing"
        elif not _fits(port, value):
            yield (
                f"{kind} {port.name} must be {_show(port.dtype, port.shape)}, "
                f"found {_show(_type_name(value.element_type), value.shape)}"
            )
    for name in values:
        yield f"{kind} {shown(name)} is not expected"


def _fits(port: Port, value: Value) -> bool:
    """Numbers must agree; an axis that is free in the contract must be free in the graph."""
    if _type_name(value.element_type) != port.dtype or value.shape is None:
        return False
    return len(value.shape) == len(port.shape) and all(
        isinstance(found, str) if isinstance(expected, str) else found == expected
        for found, expected in zip(value.shape, port.shape, strict=True)
    )


def _show(type_name: str, shape: tuple[int | str, ...] | None) -> str:
    if shape is None:
        return f"{type_name} without a shape"
    names = [axis if isinstance(axis, str) and axis.isidentifier() else shown(axis) for axis in shape]
    more = ["…"] if len(names) > MAX_RANK else []
    return f"{type_name} [{', '.join(names[:MAX_RANK] + more)}]"


def _type_name(element_type: int) -> str:
    return ELEMENT_TYPES[element_type][0] if element_type in ELEMENT_TYPES else f"type {element_type}"


def _architecture_problems(model: Model, architecture: Architecture) -> Iterator[str]:
    """The shape of the model that the graph computes, against the one that the manifest names."""
    attention = [node for node in model.nodes if node.operator == "GroupQueryAttention"]
    if len(attention) != architecture.layers:
        yield f"the manifest has {architecture.layers} layers, the graph {len(attention)} attention nodes"
    for node in attention:
        for attribute in ("num_heads", "kv_num_heads"):
            heads = node.integers.get(attribute, 0)
            if heads != architecture.heads:
                yield f"node {shown(node.name)} has {attribute} {heads}, the manifest {architecture.heads}"
    yield from _table_problems(model, architecture)


def _table_problems(model: Model, architecture: Architecture) -> Iterator[str]:
    """The tables of tokens and positions: as many rows as there are ids, as wide as the model."""
    dims = {tensor.name: tensor.dims for tensor in model.initializers}
    rows = {"input_ids": architecture.vocab_size, "position_ids": architecture.context}
    for node in model.nodes:
        if node.operator not in _LOOKUPS or len(node.inputs) < 2 or node.inputs[0] not in dims:
            continue
        table, width = dims[node.inputs[0]], architecture.width
        if node.operator == "GatherBlockQuantized":
            table, size = table_shape(node, table), max(1, node.integers.get("block_size", 1))
            width = -(-width // size) * size  # whole blocks
        wanted = (rows.get(node.inputs[1], 0), width)
        if wanted[0] and table != wanted:
            shape = _show("table", table)
            yield f"{node.inputs[1]} must look up a table of {wanted[0]} x {wanted[1]}, found a {shape}"


def _initializer_problems(model: Model, data_sizes: Mapping[str, int]) -> Iterator[str]:
    names = [tensor.name for tensor in model.initializers]
    if len(set(names)) < len(names):
        yield "two initializers have the same name"
    if not set(names).isdisjoint(value.name for value in model.inputs):
        yield "an input has a default value"
    for tensor in model.initializers:
        problem = _tensor_problem(tensor, data_sizes)
        if problem:
            yield f"initializer {shown(tensor.name)} {problem}"


def _tensor_problem(tensor: Tensor, data_sizes: Mapping[str, int]) -> str | None:
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
