"""Models of directories that Optimum wrote, with a manifest made here and nothing checked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import onnx
from onnx import TensorProto

import ortgpt
from ortgpt.bundle.bundle import Bundle
from ortgpt.inference.session import Session
from ortgpt.manifest import (
    Architecture,
    FileEntry,
    Manifest,
    PortableGraph,
    Probe,
    Provenance,
)
from ortgpt.text.tokenizer import load_tokenizer

NAMES = ("model.onnx", "decoder_model_merged.onnx")


def load_portable(directory: Path, *, threads: int = 1, chunk: int = 256) -> ortgpt.Model:
    manifest = make_manifest(directory)
    graph = (directory / manifest.graph_name).read_bytes()
    bundle = Bundle(
        directory=directory,
        manifest=manifest,
        graph=graph,
        tokenizer=(directory / "tokenizer.json").read_bytes(),
        prefill_graph=None,
        identities={},
        verified=False,
    )
    session = Session(graph, directory, manifest, provider="cpu", threads=threads)
    return ortgpt.Model(bundle, load_tokenizer(bundle.tokenizer), session, prefill_chunk=chunk)


def make_manifest(directory: Path) -> Manifest:
    """What `ortgpt adopt` would find out."""
    name = next(name for name in NAMES if (directory / name).exists())
    graph = onnx.load(directory / name, load_external_data=False).graph
    inputs = {value.name: value.type.tensor_type for value in graph.input}
    outputs = {value.name: value.type.tensor_type for value in graph.output}
    is_stacked = "past_0" in inputs
    past = [value for name, value in inputs.items() if name.startswith("past")]
    axes = past[0].shape.dim[1 if is_stacked else 0 :]
    config = json.loads((directory / "config.json").read_text())
    heads = config.get("n_head") or config.get("num_heads") or config["num_attention_heads"]
    width = config.get("n_embd") or config["hidden_size"]
    data = tuple(sorted(path.name for path in directory.glob("*.onnx_data")))
    tokenizer = load_tokenizer((directory / "tokenizer.json").read_bytes())
    return Manifest(
        architecture=Architecture(
            model_type=config["model_type"],
            layers=len(past) // (1 if is_stacked else 2),
            heads=heads,
            head_size=axes[3].dim_value,
            cache_head_size=axes[3].dim_value,
            width=width,
            context=config.get("n_positions") or config["max_position_embeddings"],
            vocab_size=outputs["logits"].shape.dim[2].dim_value or config["vocab_size"],
            tokenizer_size=tokenizer.size,
            bos_token_id=config["bos_token_id"],
            eos_token_ids=(config["eos_token_id"],),
            kv_heads=axes[1].dim_value,
        ),
        dialect="portable",
        precision="fp32",
        block_size=None,
        row_invariant=False,
        files={
            path.name: FileEntry(
                size=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest()
            )
            for path in directory.iterdir()
        },
        provenance=Provenance(
            source=str(directory), source_sha256="0" * 64, exporter="optimum", onnxruntime_floor="1.31"
        ),
        probe=Probe(text="a", token_ids=(0,), argmax=0),
        parity="skipped",
        portable=PortableGraph(
            file=name,
            data_files=data,
            cache="stacked" if is_stacked else "pairs",
            ids_type="int32" if inputs["input_ids"].elem_type == TensorProto.INT32 else "int64",
            attention_mask="attention_mask" in inputs,
            position_ids="position_ids" in inputs,
            cache_branch="use_cache_branch" in inputs,
            hidden_states="hidden_states" in outputs,
        ),
    )
