"""Inputs and outputs of both dialects' graphs: what export authors and what the runtime demands.

Axis names stand for free dimensions; numbers are fixed. docs/architecture.md explains each input.
"""

from __future__ import annotations

from typing import NamedTuple

from ortgpt.manifest import Architecture, ElementType, PortableGraph

FLOAT, INT32, INT64 = "float32", "int32", "int64"

# Operators that a fused graph may hold, by domain; the runtime refuses any other before
# onnxruntime sees the file.
FUSED_OPERATORS: dict[str, frozenset[str]] = {
    "": frozenset(
        {
            "Add",
            "Cast",
            "Gather",
            "GatherND",
            "LayerNormalization",
            "MatMul",
            "Relu",
            "Sigmoid",
            "Slice",
            "Tanh",
            "Unsqueeze",
        }
    ),
    "com.microsoft": frozenset(
        {
            "BiasGelu",
            "DynamicQuantizeMatMul",
            "FastGelu",
            "FusedMatMul",
            "GatherBlockQuantized",
            "GroupQueryAttention",
            "MatMulNBits",
            "QuickGelu",
            "SkipLayerNormalization",
        }
    ),
}


class Port(NamedTuple):
    """A graph input or output: element type and axes."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


def cache_names(layer: int) -> tuple[tuple[str, str], tuple[str, str]]:
    """((past key, present key), (past value, present value)) of a layer."""
    key, value = ((f"past_key_values.{layer}.{kind}", f"present.{layer}.{kind}") for kind in ("key", "value"))
    return key, value


def has_shared_rows(element_type: ElementType) -> bool:
    """Whether siblings can share a row, by attention_bias: on CUDA, which float16 is for, it is slow."""
    return element_type == FLOAT


def fused_inputs(
    architecture: Architecture, *, ragged_widths: bool, element_type: ElementType = "float32"
) -> list[Port]:
    """The inputs of a fused graph, in order. ragged_widths adds query_seqlens."""
    ports = [
        Port("input_ids", INT64, ("rows", "width")),
        Port("position_ids", INT64, ("rows", "width")),
        Port("seqlens_k", INT32, ("rows",)),
        Port("total_sequence_length", INT32, ()),
        Port("output_positions", INT64, ("rows", "outputs")),
    ]
    if has_shared_rows(element_type):
        ports.append(Port("attention_bias", FLOAT, ("bias_rows", 1, "width", "total")))
    if ragged_widths:
        ports.append(Port("query_seqlens", INT32, ("rows",)))
    return ports + _cache_ports(architecture, element_type, side=0)


def fused_outputs(architecture: Architecture, *, element_type: ElementType = "float32") -> list[Port]:
    """The outputs of a fused graph, in order. Only the cache is of element_type, the others float32."""
    return [
        Port("logits", FLOAT, ("rows", "outputs", architecture.vocab_size)),
        Port("hidden_states", FLOAT, ("rows", "width", architecture.width)),
        *_cache_ports(architecture, element_type, side=1),
    ]


def _cache_ports(architecture: Architecture, element_type: ElementType, side: int) -> list[Port]:
    shape = ("rows", architecture.cache_heads, "capacity", architecture.cache_head_size)
    return [
        Port(names[side], element_type, shape)
        for layer in range(architecture.layers)
        for names in cache_names(layer)
    ]


def stacked_cache_names(layer: int) -> tuple[str, str]:
    """(past, present) of a layer whose keys and values are one tensor."""
    return f"past_{layer}", f"present_{layer}"


def portable_inputs(architecture: Architecture, graph: PortableGraph) -> list[Port]:
    """The inputs of a portable graph. Its cache is returned longer by the new tokens' width."""
    ids = graph.ids_type
    ports = [Port("input_ids", ids, ("rows", "width"))]
    if graph.attention_mask:
        ports.append(Port("attention_mask", ids, ("rows", "total")))
    if graph.position_ids:
        ports.append(Port("position_ids", ids, ("rows", "width")))
    if graph.cache_branch:
        ports.append(Port("use_cache_branch", "bool", (1,)))
    return ports + _grown_cache_ports(architecture, graph, side=0)


def portable_outputs(architecture: Architecture, graph: PortableGraph) -> list[Port]:
    """The outputs of a portable graph: logits of every new token, the cache, hidden states if it has them."""
    ports = [Port("logits", FLOAT, ("rows", "width", architecture.vocab_size))]
    if graph.hidden_states:
        ports.append(Port("hidden_states", FLOAT, ("rows", "width", architecture.width)))
    return ports + _grown_cache_ports(architecture, graph, side=1)


def _grown_cache_ports(architecture: Architecture, graph: PortableGraph, side: int) -> list[Port]:
    axes = ("rows", architecture.cache_heads, ("past", "total")[side], architecture.cache_head_size)
    if graph.cache == "stacked":
        return [
            Port(stacked_cache_names(layer)[side], FLOAT, (2, *axes)) for layer in range(architecture.layers)
        ]
    return [
        Port(names[side], FLOAT, axes) for layer in range(architecture.layers) for names in cache_names(layer)
    ]
