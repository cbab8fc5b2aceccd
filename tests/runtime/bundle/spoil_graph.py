"""Loads and runs a quantised or a portable bundle after random edits of its graph.

    python spoil_graph.py DIR MODEL SEED COUNT

Prints each edit before it is tried, so that the last line of a crash is its cause, and in the end the
outcomes.
"""

from __future__ import annotations

import hashlib
import json
import random
import resource
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
from onnx import helper, numpy_helper

from ortgpt.bundle.bundle import open_bundle
from ortgpt.errors import OrtgptError
from ortgpt.inference.decoders import make_decoder
from ortgpt.inference.session import Session

NUMBERS = [-(2**63), -(2**31), -16, -4, -1, 0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 24, 31, 32, 33, 39, 40, 47, 48]
NUMBERS += [49, 64, 96, 128, 256, 512, 2**15, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 + 16, 2**62]
QUANTISED = ("MatMulNBits", "GatherBlockQuantized", "DynamicQuantizeMatMul")
ATTRIBUTES = ["N", "K", "bits", "block_size", "accuracy_level", "gather_axis", "quantize_axis"]
ATTRIBUTES += ["weight_prepacked", "num_heads", "transB", "axis", "batch_dims"]
ELEMENT_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2}


def edit_attribute(rng: random.Random, graph: Any) -> str:
    node = pick_node(rng, graph)
    name = rng.choice([attribute.name for attribute in node.attribute] + ATTRIBUTES)
    value: Any = rng.choice(NUMBERS)
    if rng.random() < 0.1:
        value = rng.choice([0.5, "x", [1, 2], float("nan")])
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    if rng.random() < 0.9:
        node.attribute.append(helper.make_attribute(name, value))
        if rng.random() < 0.1:
            node.attribute.append(helper.make_attribute(name, rng.choice(NUMBERS)))
    return f"attribute {node.name}.{name} = {value}"


def edit_input(rng: random.Random, graph: Any) -> str:
    node = pick_node(rng, graph)
    names = [tensor.name for tensor in graph.initializer] + [""]
    names += [output for other in graph.node for output in other.output]
    place, name = rng.randrange(7), rng.choice(names)
    node.input.extend([""] * (place + 1 - len(node.input)))
    node.input[place] = name
    return f"input {node.name}[{place}] = {name}"


def edit_dims(rng: random.Random, graph: Any) -> str:
    """Other dims, and most of the time a length that goes with them."""
    tensor = rng.choice(graph.initializer)
    dims = list(tensor.dims)
    kind = rng.randrange(4)
    if kind == 0 and dims:
        dims[rng.randrange(len(dims))] = rng.choice(NUMBERS)
    elif kind == 1:
        rng.shuffle(dims)
        dims.insert(rng.randrange(len(dims) + 1), 1)
    elif kind == 2 and dims:
        dims.pop(rng.randrange(len(dims)))
    else:
        dims = [rng.choice([1, 2, 4, 8, 16, 24, 32, 40, 48]) for _ in range(rng.randrange(4))]
    set_dims(tensor, dims, rng.random() < 0.8)
    return f"dims {tensor.name} = {dims}"


def edit_type(rng: random.Random, graph: Any) -> str:
    tensor = rng.choice(graph.initializer)
    tensor.data_type = rng.choice(list(ELEMENT_BYTES))
    set_dims(tensor, list(tensor.dims), rng.random() < 0.8)
    return f"type {tensor.name} = {tensor.data_type}"


def edit_place(rng: random.Random, graph: Any) -> str:
    placed = [tensor for tensor in graph.initializer if tensor.external_data]
    if not placed:
        return "no tensor lies elsewhere"
    tensor = rng.choice(placed)
    tensor.external_data[1].value = str(rng.choice([0, 1, 4, 64, 1000, 5000, 10**6]))
    return f"offset {tensor.name} = {tensor.external_data[1].value}"


def edit_operator(rng: random.Random, graph: Any) -> str:
    node = pick_node(rng, graph)
    node.op_type = rng.choice([*QUANTISED, "FusedMatMul", "FastGelu", "BiasGelu"])
    node.domain = "com.microsoft"
    return f"operator {node.name} = {node.op_type}"


def edit_constant(rng: random.Random, graph: Any) -> str:
    """A whole number that the graph computes with: an axis, a shape, an index, a bound."""
    constants = [
        node.attribute[0].t
        for node in graph.node
        if node.op_type == "Constant"
        and node.attribute
        and node.attribute[0].t.data_type == onnx.TensorProto.INT64
    ]
    if not constants:
        return "no constant"
    tensor = rng.choice(constants)
    values = numpy_helper.to_array(tensor).copy().reshape(-1)
    if values.size:
        values[rng.randrange(values.size)] = rng.choice(NUMBERS[:-4])
    tensor.raw_data = values.tobytes()
    return f"constant = {values.tolist()}"


def set_dims(tensor: Any, dims: list[int], fits: bool) -> None:
    del tensor.dims[:]
    tensor.dims.extend(dims)
    count = ELEMENT_BYTES[tensor.data_type]
    for dim in dims:
        count *= dim
    if fits and tensor.external_data and 0 <= count < 10**6:
        tensor.external_data[2].value = str(count)


def pick_node(rng: random.Random, graph: Any) -> Any:
    chosen = [node for node in graph.node if node.op_type in QUANTISED]
    return rng.choice(chosen if chosen and rng.random() < 0.8 else list(graph.node))


EDITS = [
    edit_attribute,
    edit_attribute,
    edit_input,
    edit_dims,
    edit_dims,
    edit_type,
    edit_place,
    edit_operator,
]
PORTABLE_EDITS = [edit_attribute, edit_input, edit_dims, edit_type, edit_constant, edit_constant, edit_place]


def outcome(directory: Path, graph: bytes) -> str:
    """What comes of a graph in a bundle whose manifest agrees with it."""
    manifest = json.loads((directory / "manifest.json").read_text())
    name = manifest["portable"]["file"] if manifest["portable"] else "decoder.onnx"
    (directory / name).write_bytes(graph)
    manifest["files"][name] = {"size": len(graph), "sha256": hashlib.sha256(graph).hexdigest()}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    try:
        bundle = open_bundle(directory)
        session = Session(bundle.graph, bundle.directory, bundle.manifest, threads=1)
        for rows in (1, 3):
            decoder = make_decoder(session, bundle.manifest, rows=rows)
            decoder.extend([[1, 39, 3]] * rows, outputs="all")
            decoder.extend([[4]] * rows)
    except OrtgptError as error:
        return type(error).__name__
    return "ran"


def main() -> None:
    directory, model, seed, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    whole, rng = model.read_bytes(), random.Random(seed)
    outcomes: Counter[str] = Counter()
    is_portable = json.loads((directory / "manifest.json").read_text())["dialect"] == "portable"
    edits = PORTABLE_EDITS if is_portable else EDITS
    if is_portable:  # a shape of its own may ask for any amount
        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    for _ in range(count):
        proto = onnx.load_from_string(whole)
        done = [rng.choice(edits)(rng, proto.graph) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
        print(done, flush=True)
        outcomes[outcome(directory, proto.SerializeToString())] += 1
    print(dict(outcomes))


if __name__ == "__main__":
    main()
