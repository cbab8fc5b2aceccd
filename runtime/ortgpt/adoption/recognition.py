"""What kind of portable graph this is, by its inputs, outputs and nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ortgpt.adoption.graph_choice import EXPORT_LINE
from ortgpt.bundle.tensors_check import ELEMENT_TYPES
from ortgpt.bundle.wire import Model, Node, Tensor
from ortgpt.checks import shown
from ortgpt.errors import BundleError
from ortgpt.graph_contract import cache_names, stacked_cache_names
from ortgpt.manifest import IDS_TYPES, CacheLayout, PortableGraph, Precision, check_file_name

DYNAMIC = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulInteger")


class CacheSizes(NamedTuple):
    """Heads and head size of a graph's cache; None where the graph leaves them open."""

    heads: int | None
    head_size: int | None


def describe_graph(model: Model, name: str) -> PortableGraph:
    """How the graph in that file is spoken to. Raises BundleError for what is no decoder with a cache."""
    types = {value.name: ELEMENT_TYPES.get(value.element_type, ("",))[0] for value in model.inputs}
    if "input_ids" not in types:
        raise BundleError(f"{name} takes no input_ids: it is not a text decoder")
    layout: CacheLayout = "pairs"
    if stacked_cache_names(0)[0] in types:
        layout = "stacked"
    elif cache_names(0)[0][0] not in types:
        raise BundleError(
            f"{name} takes no past (no input {cache_names(0)[0][0]}): it was exported without a cache",
            hint=f"export it with one: {EXPORT_LINE}",
        )
    kind = types[_cache_input(layout)]
    if kind != "float32":
        raise BundleError(f"{name} has a cache of {kind or 'another type'}: only float32 is run")
    ids_type = next((known for known in IDS_TYPES if known == types["input_ids"]), None)
    if ids_type is None:
        raise BundleError(f"{name} takes input_ids of {types['input_ids'] or 'another type'}")
    return PortableGraph(
        file=name,
        data_files=tuple(sorted(set(_data_files(model)))),
        cache=layout,
        ids_type=ids_type,
        attention_mask="attention_mask" in types,
        position_ids="position_ids" in types,
        cache_branch="use_cache_branch" in types,
        hidden_states=any(value.name == "hidden_states" for value in model.outputs),
    )


def find_cache_sizes(model: Model, graph: PortableGraph) -> CacheSizes:
    """Of layer 0, from the graph's own shapes."""
    first = _cache_input(graph.cache)
    shape = next((value.shape for value in model.inputs if value.name == first), None)
    if shape is None or len(shape) < 4:
        return CacheSizes(None, None)
    heads, head_size = shape[-3], shape[-1]
    return CacheSizes(
        heads if isinstance(heads, int) else None, head_size if isinstance(head_size, int) else None
    )


def find_precision(model: Model) -> tuple[Precision, int | None]:
    """(precision, block size) that the weights were written in."""
    operators = {node.operator for node in _all_nodes(model)}
    blocks = [node.integers for node in _all_nodes(model) if node.operator == "MatMulNBits"]
    if blocks:
        is_int4 = any(integers.get("bits", 4) == 4 for integers in blocks)
        return "int4" if is_int4 else "int8", max(1, blocks[0].get("block_size", 1))
    return ("fp32", None) if operators.isdisjoint(DYNAMIC) else ("int8-dynamic", None)


def _cache_input(layout: CacheLayout) -> str:
    return stacked_cache_names(0)[0] if layout == "stacked" else cache_names(0)[0][0]


def _all_nodes(model: Model) -> Iterator[Node]:
    for node in model.nodes:
        yield node
        for branch in node.graphs.values():
            yield from branch.nodes


def _data_files(model: Model) -> Iterator[str]:
    """The files that tensors lie in. Raises BundleError for a name that leads out of the directory."""
    for tensor in _all_tensors(model):
        for key, location in tensor.external:
            if key == "location":
                problem = check_file_name(location)
                if problem:
                    raise BundleError(f"weights lie in {shown(location)}, which {problem}")
                yield location


def _all_tensors(model: Model) -> Iterator[Tensor]:
    yield from model.initializers
    for node in _all_nodes(model):
        yield from node.tensors.values()
        for branch in node.graphs.values():
            yield from branch.initializers
