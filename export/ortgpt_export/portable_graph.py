"""Makes a bundle's graph of the one that Optimum traced: with states before the head, and one table.

The traced graph holds a tied table twice, the second time transposed; here the head multiplies with the
table as it lies. How matrices and table are stored is the scheme's, as in the fused graph.
"""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np

from ortgpt.errors import MissingExtraError
from ortgpt.graph_contract import portable_inputs, portable_outputs
from ortgpt.manifest import GRAPH_NAME, WEIGHTS_NAME, Architecture, PortableGraph
from ortgpt_export.graph_writer import MICROSOFT, GraphWriter, OnBytes, value_infos
from ortgpt_export.schemes import Scheme
from ortgpt_export.traced_graph import LARGE_BYTES, TracedGraph

try:
    from onnx import ModelProto, NodeProto, helper
except ImportError as error:
    raise MissingExtraError("export", "export", package=error.name or "onnx") from None

HIDDEN = "hidden_states"


def describe_ports(traced: TracedGraph) -> PortableGraph:
    """How the written graph is spoken to."""
    return PortableGraph(
        file=GRAPH_NAME,
        data_files=(WEIGHTS_NAME,),
        cache="pairs",
        ids_type="int64",
        attention_mask="attention_mask" in traced.inputs,
        position_ids="position_ids" in traced.inputs,
        cache_branch=False,
        hidden_states=True,
    )


def write_portable_graph(
    traced: TracedGraph,
    architecture: Architecture,
    data_file: BinaryIO,
    *,
    scheme: Scheme,
    on_bytes: OnBytes = lambda _: None,
) -> bytes:
    """Write the weights into data_file, which becomes decoder.onnx.data; returns the serialised graph.

    on_bytes is told of each weight of the traced graph, once it is dealt with.
    """
    writer = GraphWriter(data_file, on_bytes)
    _Rewriter(traced, writer, scheme).write()
    ports = describe_ports(traced)
    graph = helper.make_graph(
        writer.nodes,
        architecture.model_type,
        value_infos(portable_inputs(architecture, ports)),
        value_infos(portable_outputs(architecture, ports)),
        writer.initializers,
    )
    opsets = [opset for opset in traced.model.opset_import if opset.domain != MICROSOFT]
    model: ModelProto = helper.make_model(
        graph,
        producer_name="ortgpt",
        opset_imports=[*opsets, helper.make_opsetid(MICROSOFT, 1)],
        ir_version=traced.model.ir_version,
    )
    return bytes(model.SerializeToString(deterministic=True))


class _Rewriter:
    """Emits the traced nodes in their order, and each weight where it is first used."""

    def __init__(self, traced: TracedGraph, writer: GraphWriter, scheme: Scheme) -> None:
        self._traced = traced
        self._writer = writer
        self._scheme = scheme
        self._names = {traced.head.input[0]: HIDDEN}  # of values that are called otherwise here

    def write(self) -> None:
        """The whole graph."""
        special = {self._traced.head.output[0]: self._project}
        if self._traced.lookup is not None:
            special[self._traced.lookup.output[0]] = self._look_up
        for node in self._traced.nodes:
            if node.output[0] in special:
                special[node.output[0]](node)
            elif self._is_layer(node):
                self._multiply(node)
            elif not (node.op_type == "Constant" and node.output[0] in self._traced.tensors):
                self._copy(node)

    def _look_up(self, node: NodeProto) -> None:
        name = node.input[0]
        table = self._traced.values(name)
        self._scheme.table.store(self._writer, name, table)
        self._scheme.table.look_up(
            self._writer, name, table, self._input(node.input[1]), self._name(node.output[0])
        )
        self._writer.written(table)

    def _project(self, node: NodeProto) -> None:
        """The head, with the table itself where the two are tied."""
        lookup, name = self._traced.lookup, node.input[1]
        weight = self._traced.values(name).T  # (vocab, width)
        if lookup is not None and np.array_equal(weight, self._traced.values(lookup.input[0])):
            name = lookup.input[0]
        else:
            self._scheme.table.store(self._writer, name, weight)
        self._scheme.table.project(
            self._writer, self._input(node.input[0]), name, weight, self._name(node.output[0])
        )
        self._writer.written(weight)

    def _is_layer(self, node: NodeProto) -> bool:
        """Whether it is a product with a weight of a layer, in a form that has a place for it."""
        if node.op_type not in ("MatMul", "Gemm") or not self._traced.is_own_matrix(node.input[1]):
            return False
        options = _attributes(node)
        return options.get("alpha", 1.0) == options.get("beta", 1.0) == 1.0 and not options.get("transA")

    def _multiply(self, node: NodeProto) -> None:
        name = node.input[1]
        values = self._traced.values(name)
        weight = values.T if _attributes(node).get("transB") else values  # (in, out)
        bias = self._input(node.input[2]) if len(node.input) > 2 else ""
        output = self._name(node.output[0])
        self._scheme.layers.multiply(self._writer, self._input(node.input[0]), name, weight, output, bias)
        self._writer.written(values)

    def _copy(self, node: NodeProto) -> None:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.ClearField("doc_string")
        copy.input[:] = [self._input(name) for name in node.input]
        copy.output[:] = [self._name(name) for name in node.output]
        self._writer.nodes.append(copy)

    def _name(self, name: str) -> str:
        return self._names.get(name, name)

    def _input(self, name: str) -> str:
        """What a node reads here for what it reads in the traced graph; a weight is stored first."""
        if name in self._traced.tensors and name not in self._names:
            self._names[name] = self._store(name)
        return self._name(name)

    def _store(self, name: str) -> str:
        values = self._traced.values(name)
        keep = self._writer.weight if values.nbytes >= LARGE_BYTES else self._writer.constant
        self._writer.written(values)
        return keep(name, values)


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
