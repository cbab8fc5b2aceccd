"""Judges the one node with graphs inside that a bundle may have: the choice of a merged decoder.

Optimum's merged decoders hold the model twice, without and with a past, in the branches of an `If` that
use_cache_branch decides.
"""

from __future__ import annotations

from collections.abc import Iterator

from ortgpt.bundle.wire import Model, Node
from ortgpt.checks import shown
from ortgpt.manifest import PortableGraph

BRANCHES = {"then_branch", "else_branch"}
CHOICE = "use_cache_branch"


def branch_problems(model: Model, graph: PortableGraph | None) -> Iterator[str]:
    """What is wrong with the `If` nodes of a portable graph; of a fused one nothing is told here.

    What stands inside the branches is judged like any other node.
    """
    if graph is None:
        return
    choices = [node for node in model.nodes if _is_choice(node)]
    if len(choices) != int(graph.cache_branch):
        wanted = "one node that branches" if graph.cache_branch else "no node that branches"
        yield f"it must have {wanted} (If), found {len(choices)}"
    for node in choices:
        name = shown(node.name)
        if node.inputs != (CHOICE,):
            yield f"node {name} must branch by {CHOICE}, found {shown(', '.join(node.inputs))}"
        if set(node.nested) != BRANCHES or node.graphs.keys() != BRANCHES:
            yield f"node {name} must have {' and '.join(sorted(BRANCHES))} and no other graph"
        for branch in node.graphs.values():
            if branch.inputs:
                yield f"a branch of node {name} has inputs"
            if len(branch.outputs) != len(node.outputs):
                yield f"a branch of node {name} has {len(branch.outputs)} outputs"
            if any(_is_choice(inner) for inner in branch.nodes):
                yield f"a branch of node {name} branches once more"


def _is_choice(node: Node) -> bool:
    return node.operator == "If" and node.domain in ("", "ai.onnx")
