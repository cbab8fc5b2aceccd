"""Random models of several families, exported by Optimum or bent into what older exporters write.

A directory has what `optimum-cli export onnx --task text-generation-with-past` leaves: a graph, config.json,
generation_config.json and the tokenizer's files. Its checkpoint lies beside it, for a reference.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from checkpoints import END, byte_tokenizer
from onnx import TensorProto, helper
from optimum.exporters.onnx import export, main_export
from optimum.exporters.tasks import TasksManager
from optimum.onnx import merge_decoders
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

MODEL_NAME, MERGED_NAME = "model.onnx", "decoder_model_merged.onnx"
VOCAB_SIZE, END_ID, CONTEXT = 257, 256, 64  # of checkpoints.byte_tokenizer

_SMALL = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "intermediate_size": 64,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,
}
_GROUPED = _SMALL | {"num_key_value_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": CONTEXT, "initializer_range": 0.2},
    "gpt_neo": {
        "num_layers": 2,
        "num_heads": 2,
        "hidden_size": 32,
        "max_position_embeddings": CONTEXT,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 8,
        "initializer_range": 0.2,
    },
    "opt": {
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 64,
        "max_position_embeddings": CONTEXT,
        "init_std": 0.2,
    },
    "llama": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": _GROUPED | {"head_dim": 16},
    "mistral": _GROUPED | {"sliding_window": None},
    "gemma": _GROUPED | {"num_key_value_heads": 1, "head_dim": 16},  # Optimum gives it no position_ids
    "phi": _SMALL | {"hidden_size": 64, "partial_rotary_factor": 0.5},
}


def make_portable_checkpoint(folder: Path, family: str, *, seed: int = 0, **config: Any) -> Path:
    """A checkpoint as transformers saves it, of bytes; `config` are config.json keys."""
    ids = {"vocab_size": VOCAB_SIZE, "bos_token_id": END_ID, "eos_token_id": END_ID, "pad_token_id": None}
    settings = AutoConfig.for_model(family, **(FAMILIES.get(family, {}) | ids | config))
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(settings)
    model.generation_config = GenerationConfig.from_model_config(model.config)
    model.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), bos_token=END, eos_token=END)
    tokenizer.save_pretrained(folder)
    return folder


def make_portable_directory(
    folder: Path,
    family: str = "gpt2",
    *,
    seed: int = 0,
    position_ids: bool = True,
    merged: bool = False,
    stacked: bool = False,
    hidden_states: bool = False,
    int8: bool = False,
    **config: Any,
) -> Path:
    """folder/"export", from a checkpoint that is made in folder/"checkpoint".

    position_ids   False: the graph works them out by itself, as those of Gemma and of older exports do
    merged         with a branch for an empty past and use_cache_branch
    stacked        as onnxruntime's own exports of GPT-2: past_N, present_N and int32 ids; not merged
    hidden_states  with the states before the head as an output
    int8           quantised dynamically
    """
    checkpoint, directory = folder / "checkpoint", folder / "export"
    make_portable_checkpoint(checkpoint, family, seed=seed, **config)
    export_with_optimum(checkpoint, directory)
    path = directory / MODEL_NAME
    if not position_ids:
        _export_graph(checkpoint, path, position_ids=False)
    branches = [path]
    if merged:
        branches.append(folder / "without_past.onnx")
        _export_graph(checkpoint, branches[1], position_ids=position_ids, past=False)
    for branch in branches:
        if hidden_states:
            _edit(branch, _add_hidden_states)
        if stacked:
            _edit(branch, _stack_cache)
        if int8:
            _quantise(branch)
    if merged:
        merge_decoders(branches[1], path, save_path=directory / MERGED_NAME)
        path.unlink()
    return directory


def export_with_optimum(checkpoint: Path, directory: Path, **options: Any) -> None:
    """What `optimum-cli export onnx --model CHECKPOINT --task text-generation-with-past DIRECTORY` does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main_export(
            str(checkpoint), directory, task="text-generation-with-past", do_validation=False, **options
        )


def _export_graph(checkpoint: Path, path: Path, *, position_ids: bool, past: bool = True) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    make = TasksManager.get_exporter_config_constructor(
        "onnx", model, task="text-generation", library_name="transformers"
    )
    kind: Any = make.func  # the configuration's class, of which make is a partial

    class Config(kind):  # type: ignore[misc]
        @property
        def inputs(self) -> dict[str, dict[int, str]]:
            axes: dict[str, dict[int, str]] = super().inputs
            return {name: axis for name, axis in axes.items() if position_ids or name != "position_ids"}

    config = Config(model.config, task="text-generation", use_past=True, use_past_in_inputs=past)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(model, config, path)


def _quantise(path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(path, path, weight_type=QuantType.QInt8)


def _edit(path: Path, edit: Any) -> None:
    model = onnx.load(path)
    edit(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _add_hidden_states(graph: onnx.GraphProto) -> None:
    """Hand out what the head multiplies."""
    made_by = {output: node for node in graph.node for output in node.output}
    node = made_by["logits"]
    while node.op_type != "MatMul":
        node = made_by[node.input[0]]
    width = next(tensor.dims[0] for tensor in graph.initializer if tensor.name == node.input[1])
    graph.node.append(helper.make_node("Identity", [node.input[0]], ["hidden_states"]))
    axes = ["batch_size", "sequence_length", width]
    graph.output.append(helper.make_tensor_value_info("hidden_states", TensorProto.FLOAT, axes))


def _stack_cache(graph: onnx.GraphProto) -> None:
    """One tensor for keys and values of a layer, and int32 for all ids."""
    before: list[onnx.NodeProto] = []
    after: list[onnx.NodeProto] = []
    inputs: list[onnx.ValueInfoProto] = []
    for value in graph.input:
        if not value.name.startswith("past_key_values."):
            before.append(
                helper.make_node("Cast", [value.name], [f"{value.name}_wide"], to=TensorProto.INT64)
            )
            value.type.tensor_type.elem_type = TensorProto.INT32
            inputs.append(value)
    renamed = {value.name: f"{value.name}_wide" for value in inputs}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    layers = sum(value.name.endswith(".key") for value in graph.input)
    outputs = [value for value in graph.output if not value.name.startswith("present.")]
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    graph.initializer.extend(
        helper.make_tensor(f"stack_{i}", TensorProto.INT64, dims, [i])
        for i, dims in ((0, ()), (1, ()))  # places of keys and values
    )
    graph.initializer.append(helper.make_tensor("stack_axis", TensorProto.INT64, (1,), [0]))
    for layer in range(layers):
        past, present = f"past_{layer}", f"present_{layer}"
        for place, kind in enumerate(("key", "value")):
            name = f"past_key_values.{layer}.{kind}"
            before.append(helper.make_node("Gather", [past, f"stack_{place}"], [name], axis=0))
            made = f"present.{layer}.{kind}"
            after.append(helper.make_node("Unsqueeze", [made, "stack_axis"], [f"{made}.stacked"]))
        pair = [f"present.{layer}.{kind}.stacked" for kind in ("key", "value")]
        after.append(helper.make_node("Concat", pair, [present], axis=0))
        shape = [2, *shapes[f"past_key_values.{layer}.key"]]
        inputs.append(helper.make_tensor_value_info(past, TensorProto.FLOAT, shape))
        shape = [2, *shapes[f"present.{layer}.key"]]
        outputs.append(helper.make_tensor_value_info(present, TensorProto.FLOAT, shape))
    nodes = [*before, *graph.node, *after]
    for field, values in ((graph.node, nodes), (graph.input, inputs), (graph.output, outputs)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        del field[:]
        field.extend(copies)
