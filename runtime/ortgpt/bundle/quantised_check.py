"""Judges the nodes of quantised graphs: the integers they read must be as many as they say.

onnxruntime packs these weights when it builds the session, and relies on the node's numbers there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

from ortgpt.bundle.wire import Graph, Node, Tensor
from ortgpt.checks import shown

BITS = (4, 8)
BLOCK_SIZES = (16, 32, 64, 128, 256)
MAX_SIDE = 2**31 - 1
_UINT8, _INT8, _FLOAT = 2, 3, 1  # ONNX's TensorProto.DataType


def quantised_problems(graph: Graph) -> Iterator[str]:
    """What is wrong with the weights of MatMulNBits, GatherBlockQuantized and DynamicQuantizeMatMul."""
    tensors = {tensor.name: tensor for tensor in graph.initializers}
    for node in graph.nodes:
        match node.operator:
            case "MatMulNBits":
                problem = _product_problem(node, tensors)
            case "GatherBlockQuantized":
                problem = _lookup_problem(node, tensors)
            case "DynamicQuantizeMatMul":
                problem = _dynamic_problem(node, tensors)
            case _:
                continue
        if problem:
            yield f"node {shown(node.name)} {problem}"


def table_shape(node: Node, dims: tuple[int, ...]) -> tuple[int, ...]:
    """(rows, columns) of the numbers in a quantised table of these dims."""
    bits = node.integers.get("bits", 4)
    return (dims[0], dims[1] * 8 // bits) if len(dims) == 2 and bits in BITS else dims


def _product_problem(node: Node, tensors: Mapping[str, Tensor]) -> str | None:
    """(N, K) weights in blocks along K."""
    bits, size = node.integers.get("bits", 4), node.integers.get("block_size", 0)
    rows, columns = node.integers.get("N", 0), node.integers.get("K", 0)
    if bits not in BITS or size not in BLOCK_SIZES:
        return f"has {bits} bits in blocks of {size}, which no bundle uses"
    if not (1 <= rows <= MAX_SIDE and 1 <= columns <= MAX_SIDE):
        return f"has impossible sizes N = {rows}, K = {columns}"
    blocks = -(-columns // size)
    wanted = {1: blocks * size * bits // 8, 3: -(-blocks * bits // 8)}  # bytes per row, by input
    for place in (1, 2, 3):
        name = _input(node, place)
        if place == 3 and not name:
            continue
        tensor = tensors.get(name)
        if tensor is None:
            return f"must take its weights from initializers, input {place} is {shown(name)}"
        kind, count = (_FLOAT, rows * blocks) if place == 2 else (_UINT8, rows * wanted[place])
        if tensor.data_type != kind or prod(tensor.dims) != count:
            return f"needs {count} values in input {place}, found {shown(tensor.dims)}"
    return _bias_problem(node, tensors, 5, rows) or ("has g_idx" if _input(node, 4) else None)


def _lookup_problem(node: Node, tensors: Mapping[str, Tensor]) -> str | None:
    """A table (rows, columns) in blocks along the columns."""
    bits, size = node.integers.get("bits", 4), node.integers.get("block_size", 0)
    axes = node.integers.get("gather_axis", 0), node.integers.get("quantize_axis", 1)
    if bits not in BITS or size not in BLOCK_SIZES or axes != (0, 1):
        return f"has {bits} bits in blocks of {size} along axes {axes}, which no bundle uses"
    table, scales = tensors.get(_input(node, 0)), tensors.get(_input(node, 2))
    if table is None or table.data_type != _UINT8 or len(table.dims) != 2:
        return "must look up a table of uint8"
    rows, columns = table_shape(node, table.dims)
    blocks = -(-columns // size)
    if scales is None or scales.data_type != _FLOAT or scales.dims != (rows, blocks):
        return f"needs scales of {rows} x {blocks}"
    if _input(node, 3):
        zeros = tensors.get(_input(node, 3))
        if zeros is None or zeros.data_type != _UINT8 or zeros.dims != (rows, -(-blocks * bits // 8)):
            return f"needs zero points for {rows} x {blocks} blocks"
    return None


def _dynamic_problem(node: Node, tensors: Mapping[str, Tensor]) -> str | None:
    """Weights (in, out) of int8 with a scale per output."""
    weights, scales = tensors.get(_input(node, 1)), tensors.get(_input(node, 2))
    if weights is None or weights.data_type != _INT8 or len(weights.dims) != 2:
        return "must multiply with int8 weights of two axes"
    outputs = weights.dims[1]
    if scales is None or scales.data_type != _FLOAT or scales.dims != (outputs,):
        return f"needs {outputs} scales"
    if _input(node, 3):
        return "has zero points, which no bundle uses"
    return _bias_problem(node, tensors, 4, outputs)


def _bias_problem(node: Node, tensors: Mapping[str, Tensor], place: int, outputs: int) -> str | None:
    if not _input(node, place):
        return None
    bias = tensors.get(_input(node, place))
    if bias is None or bias.data_type != _FLOAT or bias.dims != (outputs,):
        return f"needs a bias of {outputs} values"
    return None


def _input(node: Node, place: int) -> str:
    return node.inputs[place] if place < len(node.inputs) else ""
