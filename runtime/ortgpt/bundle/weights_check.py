"""Looks through a bundle's weights for values that no trained model has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortgpt.bundle.bundle import Bundle
from ortgpt.bundle.weights import map_initializers

CHUNK = 1 << 20
# The place of a norm's scale among its inputs; bundles of schema 1.0 have the second kind.
SCALE_INPUTS = {"LayerNormalization": 1, "SkipLayerNormalization": 2}


def find_bad_weights(bundle: Bundle) -> list[str]:
    """What is wrong with which initializer, one line each, beginning with its name.

    Counts NaN, infinite and denormal values (which slow the processor down and come from damage or
    a diverged training; in float16 they are ordinary small weights) and reports a final layer norm
    whose scale is all zero.
    """
    arrays = map_initializers(bundle)
    found = [f"{name}: {fault}" for name, array in arrays.items() if (fault := _describe(array))]
    if bundle.prefill_graph is not None:
        wide = map_initializers(bundle, bundle.prefill_graph)
        lines = [f"{name}: {fault}" for name, array in wide.items() if (fault := _describe(array))]
        found = list(dict.fromkeys(found + lines))  # what both graphs read is told once
    scale = _final_scale(bundle)
    if scale in arrays and not arrays[scale].any():
        found.append(f"{scale}: all zero, so every prediction is the same")
    return found


def _describe(array: NDArray[Any]) -> str:
    """Counts of what should not be there: "3 NaN, 1 infinite"; empty when all is well."""
    if array.dtype.kind != "f":
        return ""
    counts = dict.fromkeys(("NaN", "infinite", "denormal"), 0)
    flat = array.reshape(-1)  # (values,)
    smallest = 0 if array.dtype.itemsize == 2 else np.finfo(array.dtype).smallest_normal
    for begin in range(0, flat.size, CHUNK):
        sizes = np.abs(flat[begin : begin + CHUNK])
        counts["NaN"] += int(np.isnan(sizes).sum())
        counts["infinite"] += int(np.isinf(sizes).sum())
        counts["denormal"] += int(((sizes > 0) & (sizes < smallest)).sum())
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def _final_scale(bundle: Bundle) -> str:
    """The initializer that scales the norm behind hidden_states; "" where the graph has none."""
    made_by = {output: node for node in bundle.read_graph().nodes for output in node.outputs}
    node = made_by.get("hidden_states")
    if node is not None and node.operator == "Cast":  # of float16
        node = made_by.get(node.inputs[0])
    place = SCALE_INPUTS.get(node.operator, 0) if node is not None else 0
    return node.inputs[place] if node is not None and 0 < place < len(node.inputs) else ""
