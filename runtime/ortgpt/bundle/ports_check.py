"""Judges the inputs and outputs of a graph by the ports of its dialect's contract."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ortgpt.bundle.tensors_check import ELEMENT_TYPES, MAX_RANK
from ortgpt.bundle.wire import Model, Value
from ortgpt.checks import shown
from ortgpt.graph_contract import Port, fused_inputs, fused_outputs, portable_inputs, portable_outputs
from ortgpt.manifest import Manifest

CACHE_PREFIXES = ("past", "present")


def interface_problems(model: Model, manifest: Manifest) -> Iterator[str]:
    """Inputs and outputs against the ports of the contract."""
    layers, graph = manifest.architecture.layers, manifest.portable
    ports_per_layer = 1 if graph is not None and graph.cache == "stacked" else 2
    if ports_per_layer * layers > min(len(model.inputs), len(model.outputs)):
        # Also keeps a manifest that names a billion layers from making a list of them.
        yield (
            f"{len(model.inputs)} inputs and {len(model.outputs)} outputs are too few "
            f"for the manifest's {layers} layers"
        )
        return
    inputs, outputs = _contract_ports(manifest)
    may_name = graph is not None
    yield from _port_problems("input", inputs, model.inputs, may_name)
    yield from _port_problems("output", outputs, model.outputs, may_name)


def show_port(type_name: str, shape: tuple[int | str, ...] | None) -> str:
    """As a person would write it: float32 [rows, 12, past, 64]."""
    if shape is None:
        return f"{type_name} without a shape"
    names = [axis if isinstance(axis, str) and axis.isidentifier() else shown(axis) for axis in shape]
    more = ["…"] if len(names) > MAX_RANK else []
    return f"{type_name} [{', '.join(names[:MAX_RANK] + more)}]"


def _contract_ports(manifest: Manifest) -> tuple[list[Port], list[Port]]:
    """(inputs, outputs) that the manifest's graph must have."""
    architecture, graph = manifest.architecture, manifest.portable
    if graph is not None:
        return portable_inputs(architecture, graph), portable_outputs(architecture, graph)
    kind = manifest.element_type
    inputs = fused_inputs(architecture, ragged_widths=manifest.ragged_widths, element_type=kind)
    return inputs, fused_outputs(architecture, element_type=kind)


def _port_problems(
    kind: str, expected: Sequence[Port], found: Sequence[Value], may_name: bool
) -> Iterator[str]:
    values = {value.name: value for value in found}
    if len(values) < len(found):
        yield f"two {kind}s have the same name"
    for port in expected:
        value = values.pop(port.name, None)
        if value is None:
            yield f"{kind} {port.name} is missing"
        elif not _fits(port, value, may_name and port.name.startswith(CACHE_PREFIXES)):
            yield (
                f"{kind} {port.name} must be {show_port(port.dtype, port.shape)}, "
                f"found {show_port(_type_name(value.element_type), value.shape)}"
            )
    for name in values:
        yield f"{kind} {shown(name)} is not expected"


def _fits(port: Port, value: Value, may_name: bool) -> bool:
    """Numbers must agree; an axis that is free in the contract must be free in the graph.

    may_name: the graph may leave a number open. Exporters do so with a cache's axes, and nothing wrong can
    come of it: the graph joins the past to keys of its own, and runs only if their sizes agree.
    """
    if _type_name(value.element_type) != port.dtype or value.shape is None:
        return False
    return len(value.shape) == len(port.shape) and all(
        found == expected or (isinstance(found, str) and (may_name or isinstance(expected, str)))
        for found, expected in zip(value.shape, port.shape, strict=True)
    )


def _type_name(element_type: int) -> str:
    return ELEMENT_TYPES[element_type][0] if element_type in ELEMENT_TYPES else f"type {element_type}"
