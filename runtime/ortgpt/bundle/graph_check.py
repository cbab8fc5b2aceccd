"""Judges a parsed graph by the contract of its dialect, before onnxruntime sees the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from ortgpt.bundle.branch_check import branch_problems
from ortgpt.bundle.portable_operators import PORTABLE_OPERATORS
from ortgpt.bundle.ports_check import interface_problems, show_port
from ortgpt.bundle.quantised_check import quantised_problems, table_shape
from ortgpt.bundle.tensors_check import tensor_problem
from ortgpt.bundle.wire import Graph, Model, Node
from ortgpt.checks import shown
from ortgpt.errors import BundleError
from ortgpt.graph_contract import FUSED_OPERATORS
from ortgpt.manifest import GRAPH_NAME, Architecture, Dialect, Manifest

OPERATORS: dict[Dialect, dict[str, frozenset[str]]] = {
    "fused": FUSED_OPERATORS,
    "portable": PORTABLE_OPERATORS,
}

# onnxruntime writes these into every graph that it optimises, whether a node is of that domain or not.
_IMPORTED_BY_HABIT = (
    "ai.onnx.ml",
    "ai.onnx.preview",
    "ai.onnx.preview.training",
    "ai.onnx.training",
    "com.microsoft.experimental",
    "com.microsoft.nchwc",
    "org.pytorch.aten",
)
OPSETS: dict[Dialect, dict[str, range]] = {
    "fused": {"": range(13, 31), "com.microsoft": range(1, 2)},
    "portable": {"": range(11, 31), "com.microsoft": range(1, 2)}
    | dict.fromkeys(_IMPORTED_BY_HABIT, range(1, 31)),
}
IR_VERSIONS = range(4, 17)
MAX_PROBLEMS = 20

_LOOKUPS = ("Gather", "GatherBlockQuantized")
_HOLD_TENSORS = ("Constant", "ConstantOfShape")  # of portable graphs, in `value`


def check_graph(
    model: Model, manifest: Manifest, data_sizes: Mapping[str, int], name: str = GRAPH_NAME
) -> None:
    """Raise BundleError, which lists every problem, unless the graph keeps its dialect's contract.

    data_sizes  bytes of the files that the graph may refer to, one of which every external tensor must lie in
    name        the graph's file
    """
    graphs = tuple(_graphs(model))
    problems = [
        *_header_problems(model, manifest.dialect),
        *branch_problems(model, manifest.portable),
        *_operator_problems(graphs, manifest.dialect),
        *interface_problems(model, manifest),
        *_architecture_problems(graphs, manifest),
        *_tensor_problems(model, graphs, data_sizes),
        *(problem for graph in graphs for problem in quantised_problems(graph)),
    ]
    if problems:
        more = [f"and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
        raise BundleError(f"{name} is not usable: " + "; ".join(problems[:MAX_PROBLEMS] + more))


def _graphs(model: Model) -> Iterator[Graph]:
    """The outer graph, then the branches of a merged decoder with the outer initializers, which they see."""
    yield model.graph
    for node in model.nodes:
        for branch in node.graphs.values():
            yield branch._replace(initializers=model.initializers + branch.initializers)


def _header_problems(model: Model, dialect: Dialect) -> Iterator[str]:
    if model.ir_version not in IR_VERSIONS:
        yield f"ir_version {model.ir_version} is not known"
    versions = [(_domain(domain), version) for domain, version in model.opsets]
    for domain, version in versions:
        if version not in OPSETS[dialect].get(domain, ()):
            yield f"opset {version} of domain {shown(domain or 'ai.onnx')} is not known"
    if "" not in dict(versions) or len(dict(versions)) < len(versions):
        yield "it must import the ONNX opset, and no opset twice"
    for count, what in ((model.functions, "functions"), (model.training, "training information")):
        if count:
            yield f"it holds {what}"
    if any(graph.sparse for graph in _graphs(model)):
        yield "it holds sparse initializers"
    if any(key == "ort_config" for key, _ in model.metadata):
        yield "its metadata configures onnxruntime"


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _operator_problems(graphs: tuple[Graph, ...], dialect: Dialect) -> Iterator[str]:
    nodes = [node for graph in graphs for node in graph.nodes]
    operators = OPERATORS[dialect]
    found = Counter((_domain(node.domain), node.operator) for node in nodes)
    if dialect == "portable":
        found.pop(("", "If"), None)  # judged by branch_problems
    for (domain, operator), count in found.items():
        if operator not in operators.get(domain, ()):
            full_name = f"{domain}.{operator}" if domain else operator
            yield f"operator {shown(full_name)} is not allowed ({count} nodes)"
    for node in nodes:
        for attribute in node.nested:
            if not _may_hold(node, attribute, dialect):
                yield f"node {shown(node.name)} holds a graph or a tensor in attribute {shown(attribute)}"
        # onnxruntime reads outside its memory where this is negative.
        batch_dims = node.integers.get("batch_dims", 0)
        if node.operator == "GatherND" and batch_dims != 1:
            yield f"node {shown(node.name)} has batch_dims {batch_dims}, only 1 is allowed"


def _may_hold(node: Node, attribute: str, dialect: Dialect) -> bool:
    if dialect != "portable" or _domain(node.domain):
        return False
    if node.operator == "If":  # judged by branch_problems
        return True
    return node.operator in _HOLD_TENSORS and attribute == "value" and attribute in node.tensors


def _architecture_problems(graphs: tuple[Graph, ...], manifest: Manifest) -> Iterator[str]:
    """The shape of the model that the graph computes, against the one that the manifest names."""
    if manifest.dialect == "fused":
        yield from _attention_problems(graphs[0], manifest.architecture)
    for graph in graphs:
        yield from _table_problems(graph, manifest)


def _attention_problems(graph: Graph, architecture: Architecture) -> Iterator[str]:
    attention = [node for node in graph.nodes if node.operator == "GroupQueryAttention"]
    if len(attention) != architecture.layers:
        yield f"the manifest has {architecture.layers} layers, the graph {len(attention)} attention nodes"
    for node in attention:
        for attribute in ("num_heads", "kv_num_heads"):
            heads = node.integers.get(attribute, 0)
            if heads != architecture.heads:
                yield f"node {shown(node.name)} has {attribute} {heads}, the manifest {architecture.heads}"


def _table_problems(graph: Graph, manifest: Manifest) -> Iterator[str]:
    """The tables of tokens and positions: as many rows as there are ids, as wide as the model.

    Those of a portable graph may have spare rows, and embeddings of another width.
    """
    dims = {tensor.name: tensor.dims for tensor in graph.initializers}
    architecture, is_exact = manifest.architecture, manifest.dialect == "fused"
    rows = {"input_ids": architecture.vocab_size, "position_ids": architecture.context}
    for node in graph.nodes:
        if node.operator not in _LOOKUPS or len(node.inputs) < 2 or node.inputs[0] not in dims:
            continue
        table, width = dims[node.inputs[0]], architecture.width
        if node.operator == "GatherBlockQuantized":
            table, size = table_shape(node, table), max(1, node.integers.get("block_size", 1))
            width = -(-width // size) * size  # whole blocks
        wanted = (rows.get(node.inputs[1], 0), width)
        if not wanted[0]:
            continue
        shape = show_port("table", table)
        if is_exact and table != wanted:
            yield f"{node.inputs[1]} must look up a table of {wanted[0]} x {wanted[1]}, found a {shape}"
        elif not is_exact and (not table or table[0] < wanted[0]):
            yield f"{node.inputs[1]} must look up a table of at least {wanted[0]} rows, found a {shape}"


def _tensor_problems(model: Model, graphs: tuple[Graph, ...], data_sizes: Mapping[str, int]) -> Iterator[str]:
    tensors = {id(tensor): tensor for graph in graphs for tensor in graph.initializers}
    for tensor in tensors.values():
        if problem := tensor_problem(tensor, data_sizes):
            yield f"initializer {shown(tensor.name)} {problem}"
    for graph in graphs:
        names = [tensor.name for tensor in graph.initializers]
        if len(set(names)) < len(names):
            yield "two initializers have the same name"
        if not set(names).isdisjoint(value.name for value in model.inputs):
            yield "an input has a default value"
        for node in graph.nodes:
            for attribute, tensor in node.tensors.items():
                if problem := tensor_problem(tensor, data_sizes):
                    yield f"the {attribute} of node {shown(node.name)} {problem}"
