"""How many bytes of weights a decode step has to read."""

from __future__ import annotations

from collections.abc import Iterator

from ortgpt.bundle.tensors_check import tensor_bytes
from ortgpt.bundle.wire import Model, Node

LOOKUPS = ("Gather", "GatherBlockQuantized")


def count_step_bytes(graph: Model) -> int:
    """Of one row: every weight whole, but of a table that is only looked up in, one row.

    GPT-2's position table is such a one, and its embedding where the head has weights of its own.
    """
    whole = {name for node in _step_nodes(graph) if node.operator not in LOOKUPS for name in node.inputs}
    total = 0
    for tensor in graph.initializers:
        rows = 1 if tensor.name in whole or not tensor.dims else max(1, tensor.dims[0])
        total += (tensor_bytes(tensor) or 0) // rows
    return total


def _step_nodes(graph: Model) -> Iterator[Node]:
    """The nodes that a step runs: of a merged decoder, those of its branch with a past."""
    for node in graph.nodes:
        yield node
        branch = node.graphs.get("then_branch")
        yield from branch.nodes if branch is not None else ()
