"""A one-layer bundle that onnxruntime can load, authored with the onnx package from the contract's ports."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from ortgpt.bundle.bundle import Bundle, open_bundle
from ortgpt.errors import BundleError
from ortgpt.graph_contract import fused_inputs, fused_outputs
from ortgpt.manifest import (
    GENERATION_CONFIG_NAME,
    GRAPH_NAME,
    MANIFEST_NAME,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
    Architecture,
    Manifest,
    Probe,
    Provenance,
)

ARCHITECTURE = Architecture(
    model_type="gpt2",
    layers=1,
    heads=2,
    head_size=8,
    cache_head_size=8,
    width=16,
    context=32,
    vocab_size=40,
    tokenizer_size=38,
    bos_token_id=0,
    eos_token_ids=(0,),
)
SHAPES = {
    "wte": (40, 16),
    "wpe": (32, 16),
    "ln_1.scale": (16,),
    "ln_1.shift": (16,),
    "qkv": (16, 48),
    "ln_f.scale": (16,),
    "ln_f.shift": (16,),
}
TYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32, "int64": TensorProto.INT64}


def make_nodes(ragged: bool) -> list[Any]:
    cache = ["past_key_values.0.key", "past_key_values.0.value"]
    lengths = ["seqlens_k", "total_sequence_length"]
    attention = ["qkv_out", "", "", *cache, *lengths, "", "", "", "attention_bias"]
    attention += [""] * 5 + ["query_seqlens"] if ragged else []
    fused = {"domain": "com.microsoft"}
    return [
        helper.make_node("Gather", ["wte", "input_ids"], ["tokens"]),
        helper.make_node("Gather", ["wpe", "position_ids"], ["positions"]),
        helper.make_node(
            "SkipLayerNormalization",
            ["tokens", "positions", "ln_1.scale", "ln_1.shift"],
            ["normed"],
            **fused,
        ),
        helper.make_node("MatMul", ["normed", "qkv"], ["qkv_out"]),
        helper.make_node(
            "GroupQueryAttention",
            attention,
            ["attended", "present.0.key", "present.0.value"],
            name="attention",
            num_heads=2,
            kv_num_heads=2,
            **fused,
        ),
        helper.make_node(
            "SkipLayerNormalization",
            ["tokens", "attended", "ln_f.scale", "ln_f.shift"],
            ["hidden_states"],
            **fused,
        ),
        helper.make_node("Unsqueeze", ["output_positions", "last_axis"], ["indices"]),
        helper.make_node("GatherND", ["hidden_states", "indices"], ["selected"], batch_dims=1),
        helper.make_node("FusedMatMul", ["selected", "wte"], ["logits"], transB=1, **fused),
    ]


def make_model(ragged: bool = True) -> tuple[ModelProto, bytes]:
    """(graph, content of the weights file)"""
    values = np.random.default_rng(0)
    data, tensors = bytearray(), []
    for name, shape in SHAPES.items():
        tensor = TensorProto(name=name, data_type=1, dims=shape, data_location=TensorProto.EXTERNAL)
        content = values.normal(size=shape).astype("<f4").tobytes()
        for key, value in (("location", WEIGHTS_NAME), ("offset", len(data)), ("length", len(content))):
            tensor.external_data.add(key=key, value=str(value))
        tensors.append(tensor)
        data += content
    ports = [
        [helper.make_tensor_value_info(port.name, TYPES[port.dtype], port.shape) for port in side]
        for side in (fused_inputs(ARCHITECTURE, ragged_widths=ragged), fused_outputs(ARCHITECTURE))
    ]
    tensors.append(helper.make_tensor("last_axis", TensorProto.INT64, [1], [-1]))
    graph = helper.make_graph(make_nodes(ragged), "tiny", *ports, tensors)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10), bytes(data)


@dataclass
class TinyBundle:
    """A bundle on disk. Change `model` or the files, then `seal` makes the manifest agree with them."""

    directory: Path
    model: ModelProto

    @property
    def graph_path(self) -> Path:
        return self.directory / GRAPH_NAME

    @property
    def weights_path(self) -> Path:
        return self.directory / WEIGHTS_NAME

    @property
    def manifest(self) -> dict[str, Any]:
        return dict(json.loads((self.directory / MANIFEST_NAME).read_text()))

    def write_manifest(self, **changes: Any) -> None:
        (self.directory / MANIFEST_NAME).write_text(json.dumps(self.manifest | changes))

    def write_architecture(self, **changes: Any) -> None:
        self.write_manifest(architecture=self.manifest["architecture"] | changes)

    def write_entry(self, name: str, **changes: Any) -> None:
        files = self.manifest["files"]
        self.write_manifest(files=files | {name: files[name] | changes})

    def seal(self, graph: bytes | None = None) -> None:
        self.graph_path.write_bytes(self.model.SerializeToString() if graph is None else graph)
        self.write_manifest(files={name: describe(self.directory / name) for name in self.manifest["files"]})

    def open(self, **options: Any) -> Bundle:
        return open_bundle(self.directory, **options)

    def refusal(self, kind: type[BundleError] = BundleError, **options: Any) -> str:
        """Why the bundle does not open."""
        with pytest.raises(BundleError) as caught:
            self.open(**options)
        assert type(caught.value) is kind
        return str(caught.value)

    def graph_refusal(self) -> str:
        """Why `model` is refused, without digests: the graph's check stands on its own."""
        self.seal()
        return self.refusal(verify=False)

    def initializer(self, name: str) -> TensorProto:
        return next(tensor for tensor in self.model.graph.initializer if tensor.name == name)

    def set_external(self, name: str, **fields: str) -> None:
        """Set external_data fields of an initializer; other fields stay as they are."""
        pairs = {pair.key: pair for pair in self.initializer(name).external_data}
        for key, value in fields.items():
            pair = pairs.get(key) or self.initializer(name).external_data.add(key=key)
            pair.value = value

    def write_weights(self, name: str, values: Any) -> None:
        """Overwrite an initializer's values in the weights file."""
        fields = {pair.key: pair.value for pair in self.initializer(name).external_data}
        with self.weights_path.open("r+b") as file:
            file.seek(int(fields["offset"]))
            file.write(np.asarray(values, dtype="<f4").tobytes())


def describe(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def write_bundle(directory: Path, ragged: bool = True) -> TinyBundle:
    model, weights = make_model(ragged)
    directory.mkdir(parents=True)
    (directory / WEIGHTS_NAME).write_bytes(weights)
    (directory / TOKENIZER_NAME).write_text('{"model": {}}')
    (directory / GENERATION_CONFIG_NAME).write_text('{"eos_token_id": 0}')
    manifest = Manifest(
        architecture=ARCHITECTURE,
        dialect="fused",
        precision="fp32",
        block_size=None,
        row_invariant=True,
        files={},
        provenance=Provenance(
            source="tiny",
            source_sha256="0" * 64,
            exporter="0.1.0",
            onnxruntime_floor="1.32" if ragged else "1.31",
        ),
        probe=Probe(text="a", token_ids=(1,), argmax=2),
        parity="skipped",
    )
    (directory / MANIFEST_NAME).write_text(manifest.to_json())
    tiny = TinyBundle(directory, model)
    names = (GRAPH_NAME, WEIGHTS_NAME, TOKENIZER_NAME, GENERATION_CONFIG_NAME)
    tiny.write_manifest(files={name: {} for name in names})
    tiny.seal()
    return tiny


@pytest.fixture
def tiny(tmp_path: Path) -> TinyBundle:
    return write_bundle(tmp_path / "tiny")


@pytest.fixture
def make_tiny() -> Any:
    """write_bundle(directory, ragged=True) -> TinyBundle"""
    return write_bundle
