"""Turns the tiny bundle of tests/runtime/bundle into a quantised one."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper

from ortgpt.manifest import WEIGHTS_NAME
from ortgpt_export.quantise import quantise_blocks, quantise_columns

FUSED = {"domain": "com.microsoft"}
BLOCK = {"bits": 4, "block_size": 16}
TYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "int8": TensorProto.INT8}
KEPT = ("ln_1.scale", "ln_1.shift", "ln_f.scale", "ln_f.shift", "last_axis")


def quantise_tiny(tiny: Any) -> Any:
    """Every quantised operator, each input that may be there: one-block rows of 16, 4 and 8 bits.

    Tables wte (4 bits, zero points, shared with the head) and wpe (8 bits), the product qkv (4 bits,
    zero points, bias), and a product proj of dynamic activations.
    """
    rng = np.random.default_rng(0)
    wte, wpe, qkv, proj = (
        rng.normal(size=shape).astype(np.float32) for shape in ((40, 16), (32, 16), (48, 16), (16, 16))
    )
    tokens = quantise_blocks(wte, bits=4, block_size=16, method="k-quant")
    positions = quantise_blocks(wpe, bits=8, block_size=16, method="rtn")
    layer = quantise_blocks(qkv, bits=4, block_size=16, method="k-quant")
    columns = quantise_columns(proj)
    arrays: dict[str, Any] = {
        "wte": tokens.packed.reshape(40, -1),
        "wte.scales": tokens.scales,
        "wte.zero_points": tokens.zero_points,
        "wpe": positions.packed.reshape(32, -1),
        "wpe.scales": positions.scales,
        "qkv": layer.packed,
        "qkv.scales": layer.scales,
        "qkv.zero_points": layer.zero_points,
        "qkv.bias": rng.normal(size=48).astype(np.float32),
        "proj": columns.values,
        "proj.scales": columns.scales,
        "proj.bias": rng.normal(size=16).astype(np.float32),
    }
    _store(tiny, arrays)
    _replace_nodes(tiny.model.graph)
    tiny.write_manifest(precision="int4", block_size=16, row_invariant=False)
    tiny.seal()
    return tiny


def _store(tiny: Any, arrays: dict[str, Any]) -> None:
    graph, data = tiny.model.graph, bytearray(tiny.weights_path.read_bytes())
    kept = [tensor for tensor in graph.initializer if tensor.name in KEPT]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for name, values in arrays.items():
        graph.initializer.append(_external(name, values, len(data)))
        data += values.tobytes()
    view = TensorProto()
    view.CopyFrom(next(tensor for tensor in graph.initializer if tensor.name == "wte"))
    view.name = "wte.blocks"
    del view.dims[:]
    view.dims.extend([40, 1, 8])
    graph.initializer.append(view)
    tiny.weights_path.write_bytes(bytes(data))


def _external(name: str, values: Any, offset: int) -> TensorProto:
    kind = TYPES[values.dtype.name]
    tensor = TensorProto(name=name, data_type=kind, dims=values.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", WEIGHTS_NAME), ("offset", offset), ("length", values.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _replace_nodes(graph: Any) -> None:
    old = {node.output[0]: node for node in graph.node}
    old["hidden_states"].input[1] = "projected"
    nodes = [
        helper.make_node(
            "GatherBlockQuantized",
            ["wte", "input_ids", "wte.scales", "wte.zero_points"],
            ["tokens"],
            name="tokens",
            gather_axis=0,
            quantize_axis=1,
            **BLOCK,
            **FUSED,
        ),
        helper.make_node(
            "GatherBlockQuantized",
            ["wpe", "position_ids", "wpe.scales"],
            ["positions"],
            name="positions",
            gather_axis=0,
            quantize_axis=1,
            **{**BLOCK, "bits": 8},
            **FUSED,
        ),
        old["normed"],
        product("qkv_out", ["normed", "qkv", "qkv.scales", "qkv.zero_points", "", "qkv.bias"], 48),
        old["attended"],
        helper.make_node(
            "DynamicQuantizeMatMul",
            ["attended", "proj", "proj.scales", "", "proj.bias"],
            ["projected"],
            name="projected",
            **FUSED,
        ),
        old["hidden_states"],
        old["indices"],
        old["selected"],
        product("logits", ["selected", "wte.blocks", "wte.scales", "wte.zero_points"], 40),
    ]
    del graph.node[:]
    graph.node.extend(nodes)


def product(output: str, inputs: list[str], outputs: int) -> Any:
    return helper.make_node(
        "MatMulNBits", inputs, [output], name=output, N=outputs, K=16, accuracy_level=4, **BLOCK, **FUSED
    )
