"""A graph as Optimum traced it: its weights by name, its shape, its head and its table."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ortgpt.checks import shown
from ortgpt.errors import CheckpointError, MissingExtraError
from ortgpt.graph_contract import cache_names

try:
    import onnx
    from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
except ImportError as error:
    raise MissingExtraError("export", "export", package=error.name or "onnx") from None

LARGE_BYTES = 1024  # constants from here on are kept beside the graph, once each
# Between the head and the logits: a bias, a factor, a bound.
_AFTER_HEAD = {"Add", "Cast", "Div", "Identity", "Mul", "Tanh"}
# Between input_ids and the table.
_BEFORE_TABLE = {"Cast", "Identity", "Reshape"}


class Shape(NamedTuple):
    """What the graph says of the model: see ortgpt.manifest.Architecture."""

    layers: int
    kv_heads: int
    head_size: int
    width: int
    vocab_size: int


class TracedGraph:
    """Reads a model's file; weights stay on disk, or in the model, until they are asked for."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError when the graph can't be spoken to as the portable dialect is."""
        self._folder = path.parent
        self.model = onnx.load(path, load_external_data=False)
        graph = self.model.graph
        self.tensors = {tensor.name: tensor for tensor in graph.initializer} | _large_constants(graph.node)
        self._parameters = {tensor.name for tensor in graph.initializer}
        self.nodes = _without_aliases(graph.node, self.tensors)
        self._makers = {output: node for node in self.nodes for output in node.output}
        self._readers = Counter(name for node in self.nodes for name in node.input)
        self._check_whole()
        self.inputs = {value.name: value for value in graph.input if value.name not in self._parameters}
        self.outputs = {value.name: value for value in graph.output}
        layers = sum(bool(re.fullmatch(r"past_key_values\.\d+\.key", name)) for name in self.inputs)
        self._check_ports(layers)
        self.head = self._find_head()
        self.lookup = self._find_lookup()
        width, vocab_size = self.tensors[self.head.input[1]].dims
        self.shape = Shape(layers, *self._cache_shape(layers), width, vocab_size)

    @property
    def nbytes(self) -> int:
        """Of all weights, each counted as often as it is there."""
        return sum(map(tensor_bytes, self.tensors.values()))

    def values(self, name: str) -> NDArray[Any]:
        """A weight. Raises CheckpointError when a parameter is not finite."""
        values: NDArray[Any] = numpy_helper.to_array(self.tensors[name], str(self._folder))
        if name in self._parameters and values.dtype.kind == "f" and not np.isfinite(values).all():
            raise CheckpointError(f"the checkpoint's {shown(name)} holds NaN or infinite values")
        return values

    def is_matrix(self, name: str) -> bool:
        """Whether it is a weight of two axes, float32."""
        tensor = self.tensors.get(name)
        return tensor is not None and len(tensor.dims) == 2 and tensor.data_type == TensorProto.FLOAT

    def is_own_matrix(self, name: str) -> bool:
        """Whether it is such a matrix, and a single node reads it."""
        return self.is_matrix(name) and self._readers[name] == 1

    def _check_whole(self) -> None:
        nested = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
        if self.model.functions or any(
            attribute.type in nested for node in self.model.graph.node for attribute in node.attribute
        ):
            raise CheckpointError("Optimum's graph of this model holds other graphs, which can't be read")

    def _check_ports(self, layers: int) -> None:
        pairs = [pair for layer in range(layers) for pair in cache_names(layer)]
        expected = {past for past, _ in pairs} | {"input_ids"}
        unknown = set(self.inputs) - expected - {"attention_mask", "position_ids"}
        missing = expected - set(self.inputs)
        unknown |= set(self.outputs) ^ ({present for _, present in pairs} | {"logits"})
        if not layers or unknown or missing:
            names = ", ".join(shown(name) for name in sorted(unknown | missing)[:3]) or "no cache"
            raise CheckpointError(f"Optimum's graph of this model has other inputs and outputs: {names}")

    def _cache_shape(self, layers: int) -> tuple[int, int]:
        shapes = {
            tuple(_dims(self.inputs[past])[axis] for axis in (1, 3))
            for layer in range(layers)
            for past, _ in cache_names(layer)
        }
        heads, size = shapes.pop()
        if shapes or not heads or not size:
            raise CheckpointError("Optimum's graph of this model has layers whose caches differ in shape")
        return heads, size

    def _find_head(self) -> NodeProto:
        """The product with a matrix that ends in the logits."""
        name = "logits"
        while (node := self._makers.get(name)) is not None:
            if node.op_type == "MatMul" and self.is_matrix(node.input[1]):
                return node
            passed = [name for name in node.input if name and not self._is_constant(name)]
            if node.op_type not in _AFTER_HEAD or len(passed) != 1:
                break
            name = passed[0]
        raise CheckpointError("Optimum's graph of this model does not end in a product with a matrix")

    def _find_lookup(self) -> NodeProto | None:
        """The lookup of input_ids in a table that nothing else reads."""
        for node in self.nodes:
            if (
                node.op_type == "Gather"
                and self.is_own_matrix(node.input[0])
                and not any(attribute.i for attribute in node.attribute)
                and self._comes_from_ids(node.input[1])
            ):
                return node
        return None

    def _comes_from_ids(self, name: str) -> bool:
        while (node := self._makers.get(name)) is not None and node.op_type in _BEFORE_TABLE:
            name = node.input[0]
        return name == "input_ids"

    def _is_constant(self, name: str) -> bool:
        return name in self.tensors or (name in self._makers and self._makers[name].op_type == "Constant")


def _without_aliases(nodes: Iterable[NodeProto], tensors: Container[str]) -> list[NodeProto]:
    """The nodes without those that hand on a weight, whose readers get it itself: torch's equal weights."""
    kept: list[NodeProto] = []
    aliases: dict[str, str] = {}
    for node in nodes:
        node.input[:] = [aliases.get(name, name) for name in node.input]
        if node.op_type == "Identity" and node.input[0] in tensors:
            aliases[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    return kept


def tensor_bytes(tensor: TensorProto) -> int:
    """The bytes of a tensor's values."""
    size: int = math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return size


def _large_constants(nodes: Iterable[NodeProto]) -> dict[str, TensorProto]:
    found = {}
    for node in nodes:
        if node.op_type != "Constant" or node.attribute[0].name != "value":
            continue
        tensor = node.attribute[0].t
        if tensor.data_location == TensorProto.EXTERNAL or tensor_bytes(tensor) >= LARGE_BYTES:
            found[node.output[0]] = tensor
    return found


def _dims(value: ValueInfoProto) -> list[int]:
    """Axes of a graph's input; 0 where they are free."""
    return [axis.dim_value for axis in value.type.tensor_type.shape.dim]
